"""When capacity is short: scaled bounds, and what is left has a price."""

from __future__ import annotations

from dataclasses import replace

import pytest

from relaygr.domain.feedback import Feedback
from services.trigger.core.effects import Admit, Decline, DeclineReason
from tests.unit.trigger.test_admission import MS, PSI_BYTES, Bench, refusal


def lossy(**counts):
    return Feedback(**{"pre_infers": 1_000, "relays": 1_000, **counts})


def test_an_instance_that_declines_gets_less_of_its_footprint_bound(values):
    bench = Bench(values, load_burst_ns=10**15)
    room = dict(device_budget_bytes=2 * 4 * PSI_BYTES)  # half of it: four prefixes
    bench.arrive(feedback=Feedback(), **room)
    bench.end("t1")
    for second in range(1, 31):
        worse = lossy(pre_infers=1_000 * second, declined_footprint=500 * second)
        bench.end(bench.arrive(second * 1_000 * MS, feedback=worse, **room).ticket_id)
    kinds = [type(bench.arrive(30_000 * MS, feedback=worse, **room)) for _ in range(4)]
    assert kinds == [Admit, Decline, Decline, Decline], "a quarter is left"
    assert bench.machine.scales() == [("r0", 0.25, 1.0)]
    calm = [type(bench.arrive(100_000 * MS, feedback=worse, **room)) for _ in range(4)]
    assert calm == [Admit] * 4, "and all of it once nothing is declined any more"


def barely_at_risk(values):
    """Full inference is expected to take 14.01 ms of 15, and 15.4 at its quantile."""
    demand = values.with_demand(rank_budget_ns=15 * MS)
    return dict(demand=demand, cost=replace(values.cost, relative_error=0.1))


def test_what_is_barely_at_risk_is_refused_when_the_bound_is_nearly_full_and_a_sure_miss_admitted(values):
    bench = Bench(values, load_burst_ns=10**15)
    room = dict(device_budget_bytes=2 * 10 * PSI_BYTES)
    for _ in range(5):
        assert isinstance(bench.arrive(**room), Admit)
    assert isinstance(bench.arrive(**room, **barely_at_risk(values)), Admit), "there is room"
    for _ in range(3):
        bench.arrive(**room)
    refused = bench.arrive(**room, **barely_at_risk(values))
    assert refusal(refused) is DeclineReason.LOW_VALUE
    assert 0 < refused.terms.miss_saved < refused.terms.price < 1
    assert refused.terms.footprint_used == pytest.approx(0.9)
    admitted = bench.arrive(**room)
    assert isinstance(admitted, Admit)
    assert admitted.terms.miss_saved == 1 and admitted.terms.price < 1


def test_device_time_has_a_price_as_well(values):
    bench = Bench(values, load_burst_ns=262 * MS)  # half of it: ten pre-infers and a little
    for _ in range(9):
        assert isinstance(bench.arrive(), Admit)
    assert refusal(bench.arrive(**barely_at_risk(values))) is DeclineReason.LOW_VALUE
    assert isinstance(bench.arrive(), Admit)


def test_a_refusal_at_a_bound_names_its_numbers_and_one_before_it_has_none(values):
    bench = Bench(values)
    full = bench.arrive(device_budget_bytes=0)
    assert (full.reason, full.terms.footprint_used, full.terms.footprint_scale) == (DeclineReason.FOOTPRINT, 1.0, 1.0)
    assert bench.arrive(demand=values.with_demand(time_to_rank_ns=0)).terms is None
