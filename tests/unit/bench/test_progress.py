"""Workers are processes: their result comes back, and so does the reason when they break."""

from bench.engine.progress import Task, assumed_s, spawn
from bench.engine.shapes import Case
from bench.engine.timing import Rounds


def test_a_workers_last_line_is_its_result():
    result = spawn(Task("noise", {"job": "noise"}, threads=1, assumed_s=1.0))
    assert 0.0 <= result["noise"]["stolen_share"] <= 1.0


def test_a_worker_that_breaks_is_a_reason_and_not_the_end_of_the_run():
    assert "no job 'nonsense'" in spawn(Task("nonsense", {"job": "nonsense"}, threads=1, assumed_s=1.0))["failed"]


def test_longer_cases_are_assumed_to_take_longer():
    times_s = [assumed_s(Case("d256_h4x64_l4", tokens, 1, "torch"), Rounds()) for tokens in (1024, 4096, 8192)]
    assert times_s == sorted(times_s) and times_s[0] < times_s[-1] / 2
