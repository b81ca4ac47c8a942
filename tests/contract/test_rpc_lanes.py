"""Calls over a lane are calls of gRPC: the same answers, errors, deadlines, cancellation and traces."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import grpc
import pytest
from opentelemetry.trace import SpanKind

from relaygr.errors import DeadlineTooShort, InvalidRequest, RelayError
from relaygr.rpc.channel import ChannelPool
from relaygr.rpc.deadline import remaining_ns
from relaygr.rpc.lane_caller import CODES, REQUEST_BYTES_MAX
from relaygr.rpc.status import error_of
from relaygr.telemetry import names
from relaygr.v1 import ranker_pb2
from tests.contract.lane_world import (
    ASK,
    ASK_ALONE,
    PROBE,
    Holding,
    alone,
    asking,
    bare,
    carried,
    greeting,
    over_a_lane,
    probed,
    ranker_of,
    settled,
    unasked,
    watched,
    where,
)
from tests.contract.rpc_world import RANK, RANKER, World, call_failing, ended, named, raising, world
from tests.contract.test_rpc_errors import FAULTS

__all__ = ["alone", "world"]

MESSAGE_BYTES_MAX = 8 * 1024 * 1024


async def echo(request: Any, context: Any) -> Any:
    return ranker_pb2.RankResponse(instance_id=request.user, logits=request.request_id.encode())


async def test_the_first_call_is_grpcs_and_then_a_lane_carries_them_all(world: World) -> None:
    stub = world.to_ranker(await world.ranker(watched(unasked)))
    assert await probed(stub) == ""
    lane = await carried(stub)
    assert [await probed(stub) for _ in range(20)] == [lane] * 20


async def test_stubs_of_one_channel_share_its_lane(world: World) -> None:
    address = await world.ranker(watched(unasked))
    lane = await carried(world.to_ranker(address))
    assert await probed(world.to_ranker(address)) == lane


async def test_many_calls_at_once_each_get_their_own_answer(world: World) -> None:
    gates = {str(number): asyncio.Event() for number in range(200)}
    began: list[str] = []

    async def rank(request: Any, context: Any) -> Any:
        began.append(request.user)
        await gates[request.user].wait()
        return await echo(request, context)

    stub = await over_a_lane(world, rank)
    requests = [ranker_pb2.RankRequest(user=user, request_id=user * 50) for user in gates]
    answers = asyncio.gather(*(stub.Rank(request, timeout=20) for request in requests))
    await settled(lambda: len(began) == len(gates))
    for user in random.Random(1).sample(began, len(began)):
        gates[user].set()
        await asyncio.sleep(0)
    for request, response in zip(requests, await answers, strict=True):
        assert (response.instance_id, response.logits) == (request.user, request.request_id.encode())


@pytest.mark.parametrize("excess_bytes", [0, 1])
async def test_a_request_beyond_the_limit_goes_by_grpc_and_is_answered(world: World, excess_bytes: int) -> None:
    stub = await over_a_lane(world, echo)
    request = ranker_pb2.RankRequest(user="u", request_id="x" * (REQUEST_BYTES_MAX - 100))
    if excess_bytes:
        request.tenant = "alone"
    request.request_id += "x" * (REQUEST_BYTES_MAX + excess_bytes - request.ByteSize())
    assert request.ByteSize() == REQUEST_BYTES_MAX + excess_bytes
    assert (await stub.Rank(request, timeout=5)).logits.decode() == request.request_id


async def test_metadata_of_the_caller_comes_along(world: World) -> None:
    seen: dict[str, Any] = {}

    async def rank(request: Any, context: Any) -> Any:
        seen.update(context.invocation_metadata())
        return ranker_pb2.RankResponse()

    stub = await over_a_lane(world, rank)
    await stub.Rank(ASK, timeout=5, metadata=(("tenant-hint", "a"),))
    assert seen["tenant-hint"] == "a" and seen["traceparent"].startswith("00-")
    await stub.Rank(ASK_ALONE, timeout=5, metadata=(("hint-bin", b"\xff"),))
    assert seen["hint-bin"] == b"\xff"


async def test_a_method_called_with_bytes_goes_on_working(world: World) -> None:
    address = await world.ranker(watched(unasked))
    await carried(world.to_ranker(address))
    raw = await world.pool.get(address).unary_unary(f"/{RANK}")(PROBE.SerializeToString(), timeout=5)
    assert ranker_pb2.RankResponse.FromString(raw).ByteSize() == len(raw)


async def test_a_server_without_lanes_is_called_by_grpc(world: World) -> None:
    address = await world.ranker(watched(unasked), lane_port=None)
    assert {await probed(world.to_ranker(address)) for _ in range(50)} == {""}
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await where(address)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_caller_without_lanes_never_opens_one(world: World, alone: ChannelPool) -> None:
    stub = ranker_of(alone, await world.ranker(watched(unasked)))
    assert {await probed(stub) for _ in range(50)} == {""}


# Errors


def told(failed: grpc.aio.AioRpcError) -> tuple[Any, ...]:
    return failed.code(), failed.details(), tuple(failed.trailing_metadata() or ())


async def failures(world: World, alone: ChannelPool, rank: Any) -> tuple[grpc.aio.AioRpcError, grpc.aio.AioRpcError]:
    """How the same call fails over a lane and by gRPC."""
    address = await world.ranker(watched(rank))
    stub = world.to_ranker(address)
    await carried(stub)
    return await call_failing(stub.Rank, ASK), await call_failing(ranker_of(alone, address).Rank, ASK_ALONE)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
async def test_a_fault_arrives_as_it_does_by_grpc(world: World, alone: ChannelPool, fault: RelayError) -> None:
    over_lane, by_grpc = await failures(world, alone, raising(fault))
    assert told(over_lane) == told(by_grpc)
    assert type(error_of(over_lane, "ranker")) is type(fault)


async def test_an_unexpected_exception_is_internal_and_tells_nothing(world: World, alone: ChannelPool) -> None:
    over_lane, by_grpc = await failures(world, alone, raising(KeyError("secret detail")))
    assert told(over_lane) == told(by_grpc)
    assert (over_lane.code(), over_lane.details()) == (grpc.StatusCode.INTERNAL, "internal error")


async def test_an_abort_of_the_servicer_passes_unchanged(world: World, alone: ChannelPool) -> None:
    async def rank(request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.ALREADY_EXISTS, "as is", (("why", "a"),))

    over_lane, by_grpc = await failures(world, alone, rank)
    assert told(over_lane) == told(by_grpc) == (grpc.StatusCode.ALREADY_EXISTS, "as is", (("why", "a"),))


async def test_a_status_that_the_servicer_sets_passes_unchanged(world: World, alone: ChannelPool) -> None:
    async def rank(request: Any, context: Any) -> Any:
        context.set_code(grpc.StatusCode.NOT_FOUND)
        context.set_details("as is")
        context.set_trailing_metadata((("why", "a"),))
        return ranker_pb2.RankResponse()

    over_lane, by_grpc = await failures(world, alone, rank)
    assert told(over_lane) == told(by_grpc) == (grpc.StatusCode.NOT_FOUND, "as is", (("why", "a"),))


async def test_an_answer_of_the_wrong_type_is_unknown(
    world: World, alone: ChannelPool, caplog: pytest.LogCaptureFixture
) -> None:
    async def rank(request: Any, context: Any) -> Any:
        return "no message"

    over_lane, by_grpc = await failures(world, alone, rank)
    assert over_lane.code() is by_grpc.code() is grpc.StatusCode.UNKNOWN
    assert "never retrieved" not in caplog.text


async def test_garbage_bytes_are_an_invalid_request(world: World) -> None:
    address = await world.ranker(watched(unasked))
    await carried(world.to_ranker(address))
    garbled = world.pool.get(address).unary_unary(
        f"/{RANK}", lambda request: b"\xff\xff\xff", ranker_pb2.RankResponse.FromString
    )
    error = error_of(await call_failing(garbled, PROBE), "ranker")
    assert isinstance(error, InvalidRequest) and error.field == "request"


async def test_an_unknown_method_is_unimplemented(world: World) -> None:
    address = await world.ranker(watched(unasked))
    await carried(world.to_ranker(address))
    missing = world.pool.get(address).unary_unary(
        f"/{RANKER}/Missing", ranker_pb2.RankRequest.SerializeToString, ranker_pb2.RankResponse.FromString
    )
    assert (await call_failing(missing, PROBE)).code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_request_beyond_the_servers_limit_is_refused(world: World) -> None:
    stub = await over_a_lane(world, message_bytes_max=1024)
    failed = await call_failing(stub.Rank, ranker_pb2.RankRequest(user="u" * 4096))
    assert failed.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_reply_beyond_the_limit_fails_its_call_and_no_other(world: World) -> None:
    held = Holding()

    async def rank(request: Any, context: Any) -> Any:
        if request.request_id:
            return ranker_pb2.RankResponse(logits=bytes(MESSAGE_BYTES_MAX + 1))
        return await held(request, context)

    stub = await over_a_lane(world, rank)
    other = stub.Rank(ASK, timeout=20)
    await held.began.wait()
    failed = await call_failing(stub.Rank, ranker_pb2.RankRequest(user="u", request_id="large"))
    assert failed.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    held.release.set()
    assert (await other).instance_id == "u"


async def test_a_reply_of_just_the_limit_arrives(world: World) -> None:
    frame_bytes = ranker_pb2.RankResponse(logits=bytes(MESSAGE_BYTES_MAX)).ByteSize() - MESSAGE_BYTES_MAX

    async def rank(request: Any, context: Any) -> Any:
        return ranker_pb2.RankResponse(logits=bytes(MESSAGE_BYTES_MAX - frame_bytes))

    stub = await over_a_lane(world, rank)
    assert (await stub.Rank(ASK, timeout=20)).ByteSize() == MESSAGE_BYTES_MAX


# Deadlines and cancellation


async def test_a_deadline_ends_the_call_at_both_ends(world: World) -> None:
    held = Holding()
    stub = await over_a_lane(world, held)
    began_s = time.monotonic()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Rank(ASK, timeout=0.2)
    assert 0.2 <= time.monotonic() - began_s < 2
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    error = error_of(caught.value, "ranker")
    assert isinstance(error, DeadlineTooShort) and not error.is_definite
    await asyncio.wait_for(held.cancelled.wait(), 5)
    assert held.left_s[0] is not None and 0 < held.left_s[0] <= 0.2


async def test_a_deadline_ends_a_handler_whose_caller_says_nothing(world: World) -> None:
    held = Holding()
    there = await where(await world.ranker(watched(held)))
    async with bare(there.port) as caller:
        caller.say(greeting(there.token), asking(1, timeout_ns=100_000_000))
        assert not (await caller.heard()).call_id
        reply = await caller.heard()
    assert (reply.call_id, CODES[reply.code]) == (1, grpc.StatusCode.DEADLINE_EXCEEDED)
    assert held.cancelled.is_set()


async def test_a_call_without_deadline_gets_the_servers_default(world: World) -> None:
    seen: list[int] = []

    async def rank(request: Any, context: Any) -> Any:
        assert context.time_remaining() is None
        seen.append(remaining_ns(context))
        return ranker_pb2.RankResponse()

    stub = await over_a_lane(world, rank, default_deadline_ns=1_000_000_000)
    await stub.Rank(ASK)
    assert 900_000_000 < seen[0] <= 1_000_000_000


async def test_a_cancelled_caller_cancels_the_handler(world: World) -> None:
    held = Holding()
    stub = await over_a_lane(world, held)

    async def ask() -> Any:
        return await stub.Rank(ASK, timeout=20)

    asking = asyncio.create_task(ask())
    await held.began.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await asyncio.wait_for(held.cancelled.wait(), 5)
    assert await probed(stub)


async def test_a_cancelled_call_cancels_the_handler(world: World) -> None:
    held = Holding()
    stub = await over_a_lane(world, held)
    call = stub.Rank(ASK, timeout=20)
    await held.began.wait()
    assert call.cancel() and not call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.wait_for(held.cancelled.wait(), 5)


async def test_a_call_that_is_cancelled_at_once_leaves_nothing_behind(world: World) -> None:
    stub = await over_a_lane(world, Holding(), concurrent_rpcs_max=4)
    for _ in range(4):
        for _ in range(3):
            stub.Rank(ASK, timeout=20).cancel()
        assert await probed(stub)
    await asyncio.wait_for(world.servers[0].stop(30), 5)


async def test_cancelling_a_call_that_was_answered_does_nothing(world: World) -> None:
    stub = await over_a_lane(world, echo)
    call = stub.Rank(ASK, timeout=5)
    assert (await call).instance_id == "u"
    assert not call.cancel()
    assert await probed(stub)


# Traces


async def test_the_servers_span_is_a_child_of_the_clients(world: World) -> None:
    stub = await over_a_lane(world, echo)
    world.spans.clear()
    with world.telemetry.span(names.SPAN_RECOMMEND):
        await stub.Rank(ASK, timeout=5)
    root = named(world.spans, names.SPAN_RECOMMEND, SpanKind.INTERNAL)
    client = named(world.spans, RANK, SpanKind.CLIENT)
    server = named(world.spans, RANK, SpanKind.SERVER)
    assert client.parent.span_id == root.context.span_id
    assert server.parent.span_id == client.context.span_id
    assert server.context.trace_id == root.context.trace_id
    for span in (client, server):
        assert span.attributes["rpc.response.status_code"] == "OK"


async def test_opening_a_lane_is_not_traced(world: World) -> None:
    await over_a_lane(world)
    assert {span.name for span in world.spans.get_finished_spans()} == {RANK}


async def test_a_cancelled_call_ends_both_spans_as_cancelled(world: World) -> None:
    held = Holding()
    stub = await over_a_lane(world, held)
    world.spans.clear()
    call = stub.Rank(ASK, timeout=20)
    await held.began.wait()
    call.cancel()
    for kind in (SpanKind.CLIENT, SpanKind.SERVER):
        span = await ended(world.spans, RANK, kind)
        assert span.attributes["rpc.response.status_code"] == "CANCELLED"
