import json
from pathlib import Path

import numpy as np
import pytest

from relaygr.behaviours.store import FileStore
from relaygr.domain.identity import UserKey
from relaygr.model.loading import load_model
from trainer.__main__ import main
from trainer.requests import read_requests

SMALL = ["--layers", "1", "--width", "16", "--threads", "1", "--candidates", "40"]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Two hundred users who mostly stay within one of eight groups of items; no actions."""
    rng = np.random.default_rng(5)
    lines = ["user_id,item_id,ts"]
    for user in range(200):
        time_s = 1_600_000_000 + int(rng.integers(0, 1_000_000))
        for _ in range(int(rng.integers(5, 40))):
            time_s += int(rng.integers(1, 20_000))
            group = user % 8 if rng.random() < 0.8 else int(rng.integers(0, 8))
            lines.append(f"u{user},{group * 20 + int(rng.integers(0, 20))},{time_s}")
    path = tmp_path / "log.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def metrics_of(out: Path) -> dict:
    return json.loads((out / "metrics.json").read_text())


def test_a_users_own_log_becomes_a_model_that_beats_popularity(log: Path, tmp_path: Path):
    out = tmp_path / "out"
    assert main(["--data", str(log), "--out", str(out), "--steps", "120", *SMALL, "--width", "32"]) == 0
    metrics = metrics_of(out)
    assert metrics["auc"] > metrics["auc_popularity"] + 0.1
    assert metrics["hit_rate_10"] > metrics["hit_rate_10_popularity"]
    assert metrics["tasks"] == ["click"]
    assert metrics["auc_like"] is None
    # Everything a replay needs is there and fits together.
    model, store = load_model(out / "checkpoint"), FileStore(out / "store")
    requests = read_requests(out / "replay.jsonl")
    assert requests
    assert model.spec.identity.weights_digest == metrics["weights_digest"]
    for request in requests:
        head = store.head(UserKey("default", request.user), request.time_s)
        assert head.log_count == request.history_count
    negatives = np.setdiff1d(requests[0].candidates, requests[0].positives)
    assert model.known_items(negatives).all()


def test_equal_steps_and_seed_make_equal_weights(log: Path, tmp_path: Path):
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert main(["--data", str(log), "--out", str(tmp_path / name), "--steps", "3", "--seed", seed, *SMALL]) == 0
    digests = [metrics_of(tmp_path / name)["weights_digest"] for name in "abc"]
    assert digests[0] == digests[1] != digests[2]


def test_a_second_run_uses_what_the_first_made(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    command = ["--data", str(log), "--out", str(tmp_path / "out"), "--steps", "2", *SMALL]
    assert main(command) == 0
    first, weights = metrics_of(tmp_path / "out"), tmp_path / "out" / "checkpoint" / "weights.safetensors"
    written_ns = weights.stat().st_mtime_ns
    assert "reusing" not in capsys.readouterr().out
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "reusing the behaviour store" in said and "reusing the checkpoint" in said
    assert weights.stat().st_mtime_ns == written_ns
    assert metrics_of(tmp_path / "out") == first


def test_other_options_or_other_data_train_again(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    command = ["--data", str(log), "--out", str(tmp_path / "out"), *SMALL]
    assert main([*command, "--steps", "2"]) == 0
    capsys.readouterr()
    assert main([*command, "--steps", "3"]) == 0
    said = capsys.readouterr().out
    assert "reusing the behaviour store" in said and "reusing the checkpoint" not in said
    with log.open("a") as file:
        file.write("u1,1,1700000000\n")
    assert main([*command, "--steps", "3"]) == 0
    assert "reusing" not in capsys.readouterr().out


def test_a_training_that_was_cut_off_is_not_used(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    command = ["--data", str(log), "--out", str(tmp_path / "out"), "--steps", "2", *SMALL]
    assert main(command) == 0
    (tmp_path / "out" / "metrics.json").unlink()
    capsys.readouterr()
    assert main(command) == 0
    assert "reusing the checkpoint" not in capsys.readouterr().out


def test_prepare_only_stops_before_training(log: Path, tmp_path: Path):
    assert main(["--data", str(log), "--out", str(tmp_path / "out"), "--prepare-only"]) == 0
    assert (tmp_path / "out" / "replay.jsonl").is_file()
    assert not (tmp_path / "out" / "checkpoint").exists()


def test_a_bad_log_ends_with_its_line_and_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "bad.csv").write_text("user,item,timestamp\n1,2,soon\n")
    assert main(["--data", str(tmp_path / "bad.csv"), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "bad.csv: line 2, column timestamp" in said
    assert "Traceback" not in said
