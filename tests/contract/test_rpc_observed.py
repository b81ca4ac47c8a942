"""What calls leave behind beside their spans: exemplars, lane counts, and log lines that lead to the trace."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest
from opentelemetry.trace import SpanKind, format_span_id, format_trace_id

from relaygr.rpc.channel import ChannelPool
from relaygr.rpc.lane_caller import REQUEST_BYTES_MAX
from relaygr.runtime.logs import KeyValueFormatter
from relaygr.telemetry import names
from relaygr.v1 import ranker_pb2, ranker_pb2_grpc
from tests.contract.lane_world import PROBE, carried, over_a_lane, settled
from tests.contract.rpc_world import RANK, World, answer, call_failing, named, raising, world

__all__ = ["world"]


def read(world: World, metric: str, attribute: str) -> dict[str, float]:
    return {str(point.attributes[attribute]): point.value for point in world.telemetry.points(metric)}


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What a service would print."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(KeyValueFormatter("ranker"))
    root = logging.getLogger()
    root.addHandler(handler)
    yield text
    root.removeHandler(handler)


@pytest.mark.parametrize(
    ("metric", "kind"),
    [
        (names.METRIC_RPC_CLIENT_CALL_DURATION, SpanKind.CLIENT),
        (names.METRIC_RPC_SERVER_CALL_DURATION, SpanKind.SERVER),
    ],
)
async def test_the_durations_of_a_call_lead_to_its_two_spans(world: World, metric: str, kind: SpanKind) -> None:
    await world.to_ranker(await world.ranker(answer)).Rank(ranker_pb2.RankRequest(), timeout=5)
    (point,) = world.telemetry.points(metric)
    (exemplar,) = point.exemplars
    span = named(world.spans, RANK, kind)
    assert (exemplar.trace_id, exemplar.span_id) == (span.context.trace_id, span.context.span_id)


async def test_calls_before_a_lane_is_open_are_counted_as_fallbacks(world: World) -> None:
    await world.to_ranker(await world.ranker(answer)).Rank(ranker_pb2.RankRequest(), timeout=5)
    assert read(world, names.METRIC_LANE_FALLBACKS, names.ATTR_LANE_FALLBACK) == {"NOT_OPEN": 1}
    assert read(world, names.METRIC_LANE_CALLS, names.ATTR_LANE_SIDE) == {"CALLER": 0, "SERVER": 0}


async def test_calls_that_a_lane_carries_are_counted_at_both_ends(world: World) -> None:
    stub = await over_a_lane(world)
    before = read(world, names.METRIC_LANE_CALLS, names.ATTR_LANE_SIDE)
    for _ in range(3):
        await stub.Rank(PROBE, timeout=5)
    assert read(world, names.METRIC_LANE_CALLS, names.ATTR_LANE_SIDE) == {
        side: count + 3 for side, count in before.items()
    }
    assert read(world, names.METRIC_LANE_CONNECTIONS, names.ATTR_LANE_SIDE) == {"CALLER": 1, "SERVER": 1}


async def test_a_lane_that_ended_is_counted_out_at_both_ends(world: World) -> None:
    await over_a_lane(world)
    await world.pool.close()
    await settled(lambda: not world.servers[0]._lanes._lanes)
    assert read(world, names.METRIC_LANE_CONNECTIONS, names.ATTR_LANE_SIDE) == {"CALLER": 0, "SERVER": 0}


async def test_why_a_call_takes_no_lane_is_counted(world: World) -> None:
    stub = await over_a_lane(world, answer)
    large = ranker_pb2.RankRequest(user="u", tenant="alone", request_id="x" * REQUEST_BYTES_MAX)
    await stub.Rank(large, timeout=5)
    await stub.Rank(ranker_pb2.RankRequest(user="u", tenant="alone"), timeout=5, wait_for_ready=True)
    await stub.Rank(ranker_pb2.RankRequest(user="u", tenant="alone"), timeout=5, metadata=(("raw-bin", b"x"),))
    reasons = read(world, names.METRIC_LANE_FALLBACKS, names.ATTR_LANE_FALLBACK)
    assert {name: reasons[name] for name in ("REQUEST_SIZE", "OPTIONS", "METADATA")} == dict.fromkeys(
        ("REQUEST_SIZE", "OPTIONS", "METADATA"), 1
    )


async def test_two_pools_of_a_process_are_counted_together(world: World) -> None:
    address = await world.ranker(answer)
    second = ChannelPool(world.telemetry)
    try:
        for pool in (world.pool, second):
            await ranker_pb2_grpc.RankerServiceStub(pool.get(address)).Rank(ranker_pb2.RankRequest(), timeout=5)
        assert read(world, names.METRIC_LANE_FALLBACKS, names.ATTR_LANE_FALLBACK) == {"NOT_OPEN": 2}
    finally:
        await second.close()


async def test_a_channel_without_lanes_counts_nothing(world: World) -> None:
    bare = ChannelPool(world.telemetry, has_lanes=False)
    try:
        stub = ranker_pb2_grpc.RankerServiceStub(bare.get(await world.ranker(answer)))
        await stub.Rank(ranker_pb2.RankRequest(), timeout=5)
        assert not read(world, names.METRIC_LANE_FALLBACKS, names.ATTR_LANE_FALLBACK)
    finally:
        await bare.close()


async def test_the_log_line_of_a_failed_call_leads_to_its_trace_and_says_what_to_do(
    world: World, log: io.StringIO
) -> None:
    stub = world.to_ranker(await world.ranker(raising(ZeroDivisionError("inside"))))
    await call_failing(stub.Rank, ranker_pb2.RankRequest())
    (line,) = [one for one in log.getvalue().splitlines() if "ZeroDivisionError" in one]
    context = named(world.spans, RANK, SpanKind.SERVER).context
    assert f" trace_id={format_trace_id(context.trace_id)} span_id={format_span_id(context.span_id)} " in line
    assert ' next="' in line


async def test_a_lane_carries_a_call_as_the_same_trace(world: World) -> None:
    stub = await over_a_lane(world)
    world.spans.clear()
    await carried(stub)
    client, server = (named(world.spans, RANK, kind) for kind in (SpanKind.CLIENT, SpanKind.SERVER))
    assert server.parent.span_id == client.context.span_id
