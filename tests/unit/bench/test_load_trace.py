"""Traces as files: what was written comes back, and what is wrong is named with its line."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from bench.load.outcome import read_outcomes, write_outcomes
from bench.load.trace import FORMAT, read_trace, write_trace
from tests.unit.bench.load_requests import outcome, request

HEAD = json.dumps({"format": FORMAT})


def line(**changes: Any) -> str:
    return json.dumps(asdict(request(1)) | changes)


def without(name: str) -> str:
    return json.dumps({key: value for key, value in asdict(request(1)).items() if key != name})


def test_a_trace_comes_back_as_it_was_and_says_where_it_is_from(tmp_path: Path):
    requests = [request(0), request(1, is_counted=False, visit=2), request(2, arrives_ns=request(1).arrives_ns)]
    write_trace(tmp_path / "trace.jsonl", requests, {"mode": "full", "seed": 4})
    assert read_trace(tmp_path / "trace.jsonl") == requests
    head = json.loads((tmp_path / "trace.jsonl").read_text().splitlines()[0])
    assert head == {"format": FORMAT, "mode": "full", "seed": 4}


def test_at_another_speed_arrivals_come_closer_and_stages_stay(tmp_path: Path):
    requests = [request(index) for index in range(4)]
    write_trace(tmp_path / "trace.jsonl", requests, {})
    fast = read_trace(tmp_path / "trace.jsonl", speed=4.0)
    assert [one.arrives_ns for one in fast] == [one.arrives_ns // 4 for one in requests]
    assert [one.due_ns - one.arrives_ns for one in fast] == [one.due_ns - one.arrives_ns for one in requests]


@pytest.mark.parametrize(
    "text, number, said",
    [
        ("", 1, "not a trace"),
        ("no JSON", 1, "not a trace"),
        ("[1]", 1, "not a trace"),
        ('{"mode": "full"}', 1, "'format'"),
        ('{"format": "relaygr-trace-9"}\n' + line(), 1, "relaygr-trace-9"),
        (HEAD, 1, "no requests"),
        (f"{HEAD}\n{line()}\nno JSON", 3, "Expecting value"),
        (f"{HEAD}\n{line()}\n\n{line()}", 3, "Expecting value"),
        (f"{HEAD}\n7", 2, "mapping"),
        (f"{HEAD}\n{without('user')}", 2, "'user'"),
        (f"{HEAD}\n{line(colour=1)}", 2, "'colour'"),
        (f"{HEAD}\n{line()}\n{line(user='u1')}", 3, "user must be a int"),
        (f"{HEAD}\n{line(user=True)}", 2, "user must be a int"),
        (f"{HEAD}\n{line(behaviours=1.5)}", 2, "behaviours must be a int of at least 0, is 1.5"),
        (f"{HEAD}\n{line(retrieval_ns=float('nan'))}", 2, "retrieval_ns"),
        (f"{HEAD}\n{line(delta=-1)}", 2, "delta must be a int of at least 0, is -1"),
        (f"{HEAD}\n{line(visit=None)}", 2, "visit"),
        (f"{HEAD}\n{line(is_counted=1)}", 2, "is_counted must be a bool"),
        (f"{HEAD}\n{line(arrives_ns=5)}\n{line(arrives_ns=4)}", 3, "arrives before"),
    ],
)
def test_what_is_no_trace_is_refused_with_its_line(tmp_path: Path, text: str, number: int, said: str):
    path = tmp_path / "trace.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError) as refused:
        read_trace(path)
    assert str(refused.value).startswith(f"{path}:{number}: ") and said in str(refused.value)


def test_outcomes_come_back_as_they_were(tmp_path: Path):
    outcomes = [outcome(0), outcome(1, error="DeadlineExceeded: later than 50 ms\nand so on", tier="")]
    write_outcomes(tmp_path / "outcomes.jsonl", outcomes)
    assert read_outcomes(tmp_path / "outcomes.jsonl") == outcomes
