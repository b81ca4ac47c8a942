"""Spans, trace context and durations over real hops, and a collector that is not there."""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode, use_span

from relaygr.errors import NotHere, Unreachable
from relaygr.telemetry import Telemetry, context_of, current_traceparent, link_of, names
from relaygr.v1 import ranker_pb2, router_pb2
from tests.contract.rpc_world import RANK, ROUTE, World, answer, call_failing, make_world, named, raising, world

__all__ = ["world"]


async def test_two_hops_are_one_trace_with_the_right_parents(world: World) -> None:
    async def rank(request: Any, context: Any) -> Any:
        with world.telemetry.span(names.SPAN_RANK_COMPUTE):
            return ranker_pb2.RankResponse()

    router = await world.router(await world.ranker(rank))
    with world.telemetry.span(names.SPAN_RECOMMEND):
        await world.to_router(router).Rank(router_pb2.RouterServiceRankRequest(), timeout=5)
    chain = [
        named(world.spans, names.SPAN_RECOMMEND, SpanKind.INTERNAL),
        named(world.spans, ROUTE, SpanKind.CLIENT),
        named(world.spans, ROUTE, SpanKind.SERVER),
        named(world.spans, RANK, SpanKind.CLIENT),
        named(world.spans, RANK, SpanKind.SERVER),
        named(world.spans, names.SPAN_RANK_COMPUTE, SpanKind.INTERNAL),
    ]
    assert len(world.spans.get_finished_spans()) == len(chain)
    assert chain[0].parent is None
    for outer, inner in itertools.pairwise(chain):
        assert inner.parent.span_id == outer.context.span_id
        assert inner.context.trace_id == outer.context.trace_id


async def test_spans_follow_the_rpc_conventions(world: World) -> None:
    address = await world.ranker(answer)
    await world.to_ranker(address).Rank(ranker_pb2.RankRequest(), timeout=5)
    client = named(world.spans, RANK, SpanKind.CLIENT)
    server = named(world.spans, RANK, SpanKind.SERVER)
    for span in (client, server):
        assert span.attributes["rpc.system.name"] == "grpc"
        assert span.attributes["rpc.method"] == "relaygr.v1.RankerService/Rank"
        assert span.attributes["rpc.response.status_code"] == "OK"
        assert "error.type" not in span.attributes
        assert span.status.status_code is StatusCode.UNSET
    assert f"{client.attributes['server.address']}:{client.attributes['server.port']}" == address
    # gRPC rounds a timeout up by at most one per cent on the wire.
    assert 4000 < server.attributes["relaygr.deadline.remaining_ms"] <= 5050


async def test_the_callers_mistake_fails_the_client_span_and_not_the_servers(world: World) -> None:
    ranker = await world.ranker(raising(NotHere("x")))
    await call_failing(world.to_ranker(ranker).Rank, ranker_pb2.RankRequest())
    client = named(world.spans, RANK, SpanKind.CLIENT)
    server = named(world.spans, RANK, SpanKind.SERVER)
    assert client.attributes["error.type"] == "NOT_FOUND"
    assert client.status.status_code is StatusCode.ERROR
    assert "error.type" not in server.attributes
    assert server.status.status_code is StatusCode.UNSET


async def test_the_servers_fault_fails_both_spans(world: World) -> None:
    ranker = await world.ranker(raising(Unreachable("peer", "x")))
    await call_failing(world.to_ranker(ranker).Rank, ranker_pb2.RankRequest())
    for kind in (SpanKind.CLIENT, SpanKind.SERVER):
        span = named(world.spans, RANK, kind)
        assert span.attributes["error.type"] == "UNAVAILABLE"
        assert span.status.status_code is StatusCode.ERROR


async def test_cancelled_call_ends_its_span_as_cancelled(world: World) -> None:
    began = asyncio.Event()

    async def rank(request: Any, context: Any) -> Any:
        began.set()
        await asyncio.Event().wait()

    call = world.to_ranker(await world.ranker(rank)).Rank(ranker_pb2.RankRequest(), timeout=5)
    await began.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert named(world.spans, RANK, SpanKind.CLIENT).attributes["rpc.response.status_code"] == "CANCELLED"


async def test_metadata_of_the_caller_is_kept(world: World) -> None:
    seen: dict[str, Any] = {}

    async def rank(request: Any, context: Any) -> Any:
        seen.update(context.invocation_metadata())
        return ranker_pb2.RankResponse()

    stub = world.to_ranker(await world.ranker(rank))
    await stub.Rank(ranker_pb2.RankRequest(), timeout=5, metadata=(("tenant-hint", "a"),))
    assert seen["tenant-hint"] == "a" and seen["traceparent"].startswith("00-")


async def test_malformed_traceparent_starts_a_new_trace(world: World) -> None:
    address = await world.ranker(answer)
    async with grpc.aio.insecure_channel(address) as channel:
        bare = channel.unary_unary("/" + RANK)
        assert await bare(b"", timeout=5, metadata=(("traceparent", "00-nonsense"),)) is not None
    assert named(world.spans, RANK, SpanKind.SERVER).parent is None


async def test_an_unsampled_callers_decision_is_honoured(world: World) -> None:
    ranker = await world.ranker(answer)
    unsampled = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False).get_tracer("test").start_span("root")
    with use_span(unsampled):
        await world.to_ranker(ranker).Rank(ranker_pb2.RankRequest(), timeout=5)
    assert not world.spans.get_finished_spans()


async def test_health_checks_are_not_traced(world: World) -> None:
    channel = world.pool.get(await world.ranker(answer))
    await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert not world.spans.get_finished_spans()
    assert not world.telemetry.points(names.METRIC_RPC_SERVER_CALL_DURATION)


async def test_link_made_from_a_kept_traceparent_points_at_its_span(world: World) -> None:
    with world.telemetry.span(names.SPAN_PRE_INFER_PRODUCE):
        kept = current_traceparent()
    with world.telemetry.span(names.SPAN_RANK_COMPUTE, links=[link_of(kept), link_of("")]):
        pass
    with world.telemetry.span(names.SPAN_PRE_INFER_SPILL, parent=context_of(kept)):
        pass
    produced = named(world.spans, names.SPAN_PRE_INFER_PRODUCE, SpanKind.INTERNAL)
    (link,) = named(world.spans, names.SPAN_RANK_COMPUTE, SpanKind.INTERNAL).links
    assert link.context.span_id == produced.context.span_id
    spill = named(world.spans, names.SPAN_PRE_INFER_SPILL, SpanKind.INTERNAL)
    assert spill.parent.span_id == produced.context.span_id


async def test_durations_are_in_seconds_with_fine_buckets_around_tens_of_ms(world: World) -> None:
    async def rank(request: Any, context: Any) -> Any:
        await asyncio.sleep(0.02)
        return ranker_pb2.RankResponse()

    await world.to_ranker(await world.ranker(rank)).Rank(ranker_pb2.RankRequest(), timeout=5)
    for name in (names.METRIC_RPC_SERVER_CALL_DURATION, names.METRIC_RPC_CLIENT_CALL_DURATION):
        (point,) = world.telemetry.points(name)
        assert point.count == 1 and 0.02 <= point.sum < 2
        assert sum(0.01 <= bound <= 0.1 for bound in point.explicit_bounds) >= 12
        assert dict(point.attributes)["rpc.response.status_code"] == "OK"


# Collectors


@contextmanager
def silent_port(*, accept: bool) -> Iterator[int]:
    """A port where nothing answers: refused, or connected and then silent."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        if accept:
            taken.listen(16)
        yield taken.getsockname()[1]


@pytest.mark.parametrize("accept", [False, True], ids=["refused", "silent"])
async def test_dead_collector_slows_no_call_and_holds_no_shutdown(
    accept: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "opentelemetry")
    with silent_port(accept=accept) as port:
        telemetry = Telemetry.setup("test", "i", f"http://127.0.0.1:{port}", b"key")
        async with make_world(telemetry) as world:
            stub = world.to_ranker(await world.ranker(answer))
            spent_s: list[float] = []
            until_s = time.monotonic() + 1.5
            while time.monotonic() < until_s:
                began_s = time.monotonic()
                await stub.Rank(ranker_pb2.RankRequest(), timeout=5)
                spent_s.append(time.monotonic() - began_s)
            began_s = time.monotonic()
            telemetry.shutdown()
            assert time.monotonic() - began_s < 4
    # An export waits for its timeout of 1 s; calls that waited for it would be few and slow.
    assert len(spent_s) > 20 and statistics.median(spent_s) < 0.1
    complaints = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(complaints) <= 2


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self) -> None:
        self.spans: list[Any] = []

    async def Export(self, request: Any, context: Any) -> Any:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans += [(resource.resource, span) for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


@asynccontextmanager
async def collecting() -> AsyncIterator[tuple[Collector, str]]:
    collector = Collector()
    server = grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield collector, f"http://127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def test_spans_reach_a_collector_with_the_services_name() -> None:
    async with collecting() as (collector, endpoint):
        telemetry = Telemetry.setup("relaygr-router", "r-1", endpoint, b"key", resource={"relaygr-note": "x"})
        with telemetry.span(names.SPAN_RECOMMEND, {names.ATTR_REQUEST_ID: "q"}):
            pass
        await asyncio.to_thread(telemetry.shutdown)
        ((resource, span),) = collector.spans
    described = {attribute.key: attribute.value.string_value for attribute in resource.attributes}
    assert described["service.name"] == "relaygr-router" and described["service.instance.id"] == "r-1"
    assert described["relaygr-note"] == "x"
    assert span.name == names.SPAN_RECOMMEND


async def test_ratio_zero_records_no_root_and_still_carries_a_trace() -> None:
    async with collecting() as (collector, endpoint):
        telemetry = Telemetry.setup("test", "i", endpoint, b"key", sample_ratio=0.0)
        with telemetry.span(names.SPAN_RECOMMEND):
            assert current_traceparent().endswith(("-00", "-02"))
        await asyncio.to_thread(telemetry.shutdown)
        assert not collector.spans
