"""The router's benchmark: what it counts is what was asked, and its tables stay capped."""

from bench.router.__main__ import _held
from bench.router.choices import measured, planning_ms


def test_every_user_is_placed_and_ranked_once():
    found = measured(4, 300)
    assert sum(found["branches"].values()) == 300 + 5_000, "the warm-up's, too"
    assert 0 < found["choice_ns"] < found["request_ns"]
    assert found["rss"]["at_end_mib"] > 0


def test_planning_is_timed():
    found = planning_ms(20)
    assert found["plan"] > 0 and found["join"] > 0


def test_a_target_is_met_on_its_own_side():
    assert _held("rate_ratio", {"rate_ratio": 0.7})["met"]
    assert not _held("rate_ratio", {"rate_ratio": 0.69})["met"]
    assert not _held("added_p50_ms", {"added_p50_ms": 0.31})["met"]
    assert _held("added_p50_ms", {}) is None
