"""What a ranker's metrics say of psi: whether tickets found it, how full the arena is, and which trace was slow."""

from __future__ import annotations

import pytest
from opentelemetry.trace import SpanKind

from relaygr.telemetry import names
from relaygr.v1 import ranker_pb2
from tests.contract.ranker_world import World, history, model_dir, world
from tests.contract.rpc_world import ended

__all__ = ["model_dir", "world"]


def tickets(world: World) -> dict[str, float]:
    points = world.telemetry.points(names.METRIC_RANK_TICKETS)
    return {str(point.attributes[names.ATTR_RANK_PSI]): point.value for point in points}


async def test_survival_counts_each_ticket_once_by_whether_its_rank_found_psi(world: World) -> None:
    assert tickets(world) == {"FOUND": 0, "LOST": 0}
    behaviours = history(1, 300)
    ticket = world.ticket(behaviours)
    await world.pre_infer(behaviours, ticket)
    await world.until_idle()
    for _ in range(2):
        response = await world.rank(world.rank_request(behaviours, ticket=ticket))
        assert response.tier == ranker_pb2.TIER_DEVICE
    assert tickets(world) == {"FOUND": 1, "LOST": 0}
    # Never produced, so that its rank is inferred in full.
    other = history(2, 300)
    await world.rank(world.rank_request(other, user="u2", ticket=world.ticket(other, user="u2")))
    assert tickets(world) == {"FOUND": 1, "LOST": 1}


async def test_pages_are_told_by_state_with_their_total(world: World) -> None:
    behaviours = history(3, 300)
    await world.pre_infer(behaviours, world.ticket(behaviours))
    await world.until_idle()
    points = world.telemetry.points(names.METRIC_RESIDENCY_PAGES)
    pages = {point.attributes[names.ATTR_RESIDENCY_STATE]: point.value for point in points}
    assert pages["total"] == 64 and 0 < pages["reserved"] <= pages["used"] < pages["total"]


@pytest.mark.parametrize("metric", [names.METRIC_PRE_INFER_DURATION, names.METRIC_RANK_STAGE_DURATION])
async def test_times_of_a_relay_lead_to_the_spans_that_took_them(world: World, metric: str) -> None:
    behaviours = history(4, 300)
    ticket = world.ticket(behaviours)
    await world.pre_infer(behaviours, ticket)
    await world.until_idle()
    await world.rank(world.rank_request(behaviours, ticket=ticket))
    produced = await ended(world.spans, names.SPAN_PRE_INFER_PRODUCE, SpanKind.INTERNAL)
    # Recorded behind the answer, and before the spans of the stages.
    await ended(world.spans, names.SPAN_RANK_COMPUTE, SpanKind.INTERNAL)
    ranked = await ended(world.spans, "relaygr.v1.RankerService/Rank", SpanKind.SERVER)
    leads = {exemplar.span_id for point in world.telemetry.points(metric) for exemplar in point.exemplars}
    took = produced if metric == names.METRIC_PRE_INFER_DURATION else ranked
    assert leads == {took.context.span_id}
