"""What instances tell triggers, in whole clusters under virtual time: who is at risk, and how scales settle."""

from dataclasses import replace

import pytest

from services.trigger.core.admission import Admission
from services.trigger.core.pressure import GAIN, PERIOD_NS, SCALE_LEAST, Pressure
from sim.nodes.router import Router
from sim.run import run
from sim.settings import Settings

STEADY = Settings(instances=4, rate_hz=150.0, seconds=12.0, checks="some")


@pytest.mark.parametrize("seed", (1, 2))
def test_several_routers_judge_as_many_requests_at_risk_as_one(seed):
    one, many = (run(replace(STEADY, seed=seed, routers=routers)).record for routers in (1, 6))
    for record in (one, many):
        # Before there is a rate to speak of, nobody waits.
        assert record.decisions["FITS_BUDGET"] < 0.02 * record.requests
    assert many.met / many.requests > one.met / one.requests - 0.01


def test_tickets_end_whichever_router_carries_their_ranks():
    tight = replace(STEADY, device_budget_bytes=64 << 20, routers=6, seed=3)
    # One router in six knows by itself: then more than half would be declined here.
    assert run(tight).record.decisions["FOOTPRINT"] < 0.05 * 150 * 12


def test_a_working_relay_leaves_both_scales_alone():
    """Queues that it empties end no throttling that never began, and change nobody's risk."""
    cluster = run(replace(STEADY, seed=4, triggers=2))
    cores = [trigger.core for trigger in cluster.triggers.values()]
    assert {scale for core in cores for _, *scales in core.scales() for scale in scales} == {1.0}


@pytest.fixture
def scales(monkeypatch) -> dict[Pressure, list[float]]:
    """Footprint scales by period, of each trigger's account of each instance."""
    seen: dict[Pressure, list[float]] = {}
    observe = Pressure.observe

    def watched(pressure, feedback, window_ns, now_ns):
        began_ns = pressure._began_ns
        observe(pressure, feedback, window_ns, now_ns)
        if pressure._began_ns - began_ns >= PERIOD_NS:
            seen.setdefault(pressure, []).append(pressure.footprint)

    monkeypatch.setattr(Pressure, "observe", watched)
    return seen


def test_triggers_that_do_not_know_of_one_another_are_held_back_without_swinging(scales, monkeypatch):
    # Each takes itself for the only one and admits for the whole of a device that is small: rankers decline.
    monkeypatch.setattr(Router, "triggers_changed", lambda router, count: None)
    settings = Settings(seed=7, instances=2, rate_hz=80, seconds=70, triggers=4, checks="some")
    greedy = replace(settings.profile.deployment, footprint_share=1.0)
    profile = replace(settings.profile, deployment=greedy)
    cluster = run(replace(settings, profile=profile, device_budget_bytes=16 << 20))
    assert len(scales) == 8
    for periods in scales.values():
        settled = periods[30:]
        assert SCALE_LEAST <= min(settled) and max(settled) < 0.85, "held back"
        assert max(settled) / min(settled) < 1.6
        # Slow swings would show as thirds that differ.
        third = len(settled) // 3
        means = [sum(settled[begin : begin + third]) / third for begin in (0, third, 2 * third)]
        assert max(means) / min(means) < 1 + 4 * GAIN
    record = cluster.record
    assert record.fallbacks["DECLINED"] < 0.12 * record.requests
    assert isinstance(next(iter(cluster.triggers.values())).core, Admission)
