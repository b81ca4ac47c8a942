"""What a lower precision costs is measured on a folder as the trainer leaves it."""

from pathlib import Path

import pytest

from bench.engine import score_error
from relaygr.behaviours.build import build_from_rows
from relaygr.behaviours.store import FileStore
from relaygr.model import checkpoint
from relaygr.model.init import new_model
from trainer.generated import GeneratedOptions, generated_rows
from trainer.requests import ReplayOptions, replay_requests, write_requests
from trainer.split import split_store
from trainer.train import TrainOptions, model_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As trainer.pipeline leaves it, with a model that has not been trained."""
    path: Path = tmp_path_factory.mktemp("trained")
    build_from_rows(generated_rows(GeneratedOptions(users=20, items=200, groups=4)), path / "store")
    split = split_store(FileStore(path / "store"))
    write_requests(replay_requests(split, ReplayOptions(candidates=16)), path / "replay.jsonl")
    config = model_config("generated", split, TrainOptions(layers=2, width=32), ())
    checkpoint.save(new_model(config, split.catalogue, 3), path / "checkpoint")
    return path


def test_lower_precisions_are_measured_or_say_why_not(folder, monkeypatch):
    monkeypatch.setattr(score_error, "REQUESTS_MAX", 12)
    found = score_error.measure_trained(folder)
    assert found["requests"] == 12 and 0.0 <= found["auc_float32"] <= 1.0
    assert 1e-4 < found["bf16"]["score_err"] < 1.0
    assert abs(found["bf16"]["auc_loss"]) < 0.2
    assert found["int8"].keys() in ({"skipped"}, {"score_err", "auc_loss"})
