"""What is counted of a probe, and when it holds."""

from typing import Any

import pytest

from bench.load.profile import Slo
from bench.load.tally import STAGES, Pair, latencies_ms, tally
from tests.unit.bench.load_requests import MS, outcome, request

SLO = Slo(rank_ms=50.0, end_to_end_ms=110.0, quantile=0.99)


def pairs(count: int = 1000, **changed: dict[str, Any]) -> list[Pair]:
    """Requests with their outcomes; `at_N` changes outcome N."""
    return [(request(index), outcome(index, **changed.get(f"at_{index}", {}))) for index in range(count)]


def late(count: int, **changes: Any) -> dict[str, dict[str, Any]]:
    return {f"at_{3 * number}": {"rank_ms": 50.1, **changes} for number in range(count)}


def test_late_is_later_than_the_limit_not_at_it():
    row = tally(pairs(at_0={"rank_ms": 50.0}, at_1={"rank_ms": 50.1}), SLO)
    assert (row["late"], row["end_to_end_late"]) == (1, 1)
    assert row["end_to_end_ms"]["max"] == pytest.approx(110.1)


def test_one_in_a_hundred_late_still_holds_and_one_more_does_not():
    assert tally(pairs(**late(10)), SLO)["held"]
    row = tally(pairs(**late(11)), SLO)
    assert row["late"] == 11 and not row["held"]


@pytest.mark.parametrize("quantile, count, allowed", [(0.9, 10, 1), (0.95, 100, 5), (0.99, 100, 1), (0.999, 1000, 1)])
def test_what_a_quantile_allows_is_not_lost_to_rounding(quantile: float, count: int, allowed: int):
    slo = Slo(rank_ms=50.0, end_to_end_ms=110.0, quantile=quantile)
    assert tally(pairs(count, **late(allowed)), slo)["held"]
    assert not tally(pairs(count, **late(allowed + 1)), slo)["held"]


def test_end_to_end_misses_alone_break_it_too():
    # Sent 60 ms late: ranking itself was quick.
    slow = {f"at_{index}": {"end_to_end_ns": 140 * MS} for index in range(11)}
    row = tally(pairs(**slow), SLO)
    assert (row["late"], row["end_to_end_late"], row["held"]) == (0, 11, False)


def test_an_error_is_late_by_both_limits_and_breaks_it_alone():
    failed = {"error": "Unavailable: ranker-1: gone", "tier": "", "rank_ns": 1, "end_to_end_ns": 1}
    row = tally(pairs(at_4=failed), SLO)
    assert (row["late"], row["end_to_end_late"], row["held"]) == (1, 1, False)
    assert row["errors"] == {"Unavailable": 1} and row["error_example"] == failed["error"]
    assert row["rank_ms"]["count"] == 999 and row["rank_ms"]["p50"] == 20.0
    assert row["late_bursts"] == [1] and row["admitted"] == 999


def test_tiers_decisions_and_instances_are_counted():
    changed = {
        "at_0": {"tier": "FULL", "fallback": "NO_TICKET", "decision": "DECLINED", "reason": "LOAD", "branch": "SLOT"},
        "at_1": {"tier": "DRAM"},
        "at_2": {"tier": "JOINED", "instance_id": "ranker-2"},
        "at_3": {"tier": "FULL", "fallback": "LATE"},
        "at_4": {"tier": "DEVICE", "decision": "NOT_AT_RISK", "reason": "SHORT"},
    }
    row = tally(pairs(10, **changed), SLO)
    assert row["tiers"] == {"FULL": 2, "DRAM": 1, "JOINED": 1, "DEVICE": 6}
    assert row["decisions"] == {"DECLINED/LOAD": 1, "ADMITTED": 8, "NOT_AT_RISK": 1}
    assert row["fallbacks"] == {"NO_TICKET": 1, "LATE": 1}
    assert row["branches"] == {"SLOT": 1, "TICKET": 9}
    assert row["instances"] == {"ranker-1": 9, "ranker-2": 1}
    # Admitted, but ranked in full: its psi did not survive.
    assert (row["admitted"], row["survived"]) == (8, 7)


def test_returns_are_the_plans_and_the_rate_is_of_the_arrivals():
    some = [(request(index, visit=index % 4), outcome(index)) for index in range(20)]
    row = tally(some, SLO)
    assert row["returns"] == 15
    assert row["achieved_hz"] == pytest.approx(10.0)


def test_stages_add_up_to_the_time_from_due_to_answer_in_each_tier():
    slow = {f"at_{index}": {"rank_ms": 30.0, "tier": "FULL", "rank_late_ns": 0, "call_ns": 30 * MS} for index in (1, 5)}
    row = tally(pairs(20, **slow), SLO)
    assert set(row["stages_ms"]) == {"ALL", "DEVICE", "FULL"}
    for tier, rank_ms in (("DEVICE", 20.0), ("FULL", 30.0), ("ALL", row["rank_ms"]["mean"])):
        stages = row["stages_ms"][tier]
        assert set(stages) == set(STAGES)
        assert sum(stage["mean"] for stage in stages.values()) == pytest.approx(rank_ms, abs=0.005)
    device = {stage: times["mean"] for stage, times in row["stages_ms"]["DEVICE"].items()}
    assert device["hops"] == pytest.approx(1.9) and device["between"] == pytest.approx(0.5)
    assert row["overhead_ms"]["count"] == 18 and row["overhead_ms"]["p50"] == pytest.approx(5.9)


def test_a_quantile_is_a_latency_that_somebody_saw_and_never_flatters():
    assert latencies_ms([]) == {"count": 0}
    told = latencies_ms([MS * value for value in range(1, 101)])
    assert (told["p50"], told["p99"], told["p99.9"], told["max"]) == (51.0, 100.0, 100.0, 100.0)
    assert told["mean"] == 50.5 and told["count"] == 100


def test_nothing_ranked_is_no_division_by_zero():
    row = tally([(request(0), outcome(0, error="Unavailable: gone"))], SLO)
    assert row["rank_ms"] == {"count": 0} and row["achieved_hz"] == 0.0 and not row["held"]
