"""A trace that does not fit the profile's histories is refused before anything is started."""

from pathlib import Path

import pytest

from bench.load import replay
from bench.load.profile import load_profile
from bench.load.trace import write_trace
from tests.unit.bench.load_requests import request

MODEL = load_profile("default").model


def test_a_trace_at_the_profiles_limits_fits():
    replay.check([request(0, user=MODEL.users - 1, behaviours=MODEL.behaviours - 1, delta=1)], MODEL)


@pytest.mark.parametrize(
    "refused, said",
    [
        (request(3, user=MODEL.users), f"request 3: user {MODEL.users}"),
        (request(4, behaviours=MODEL.behaviours), f"request 4: {MODEL.behaviours} behaviours and 1 more"),
        (request(5, is_counted=False), "no request is counted"),
    ],
)
def test_what_the_profiles_users_do_not_have_is_refused(refused, said: str):
    with pytest.raises(ValueError, match=said):
        replay.check([refused], MODEL)


@pytest.mark.parametrize("name", ["absent", "foreign"])
def test_the_command_says_what_is_wrong_and_ends(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_trace(tmp_path / "foreign.jsonl", [request(0, user=MODEL.users)], {})
    assert replay.main([str(tmp_path / f"{name}.jsonl"), "--run-dir", str(tmp_path / "run")]) == 1
    assert (name if name == "absent" else "request 0: user") in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("speed", ["0", "-1", "nan", "inf", "fast"])
def test_a_speed_that_is_none_is_refused(speed: str, tmp_path: Path):
    with pytest.raises(SystemExit):
        replay.main([str(tmp_path / "trace.jsonl"), f"--speed={speed}"])
