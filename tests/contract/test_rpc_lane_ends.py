"""How lanes end: servers that stop, connections that break, age, silence, and strangers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from relaygr.errors import Unreachable
from relaygr.rpc import lane_server
from relaygr.rpc.channel import ChannelPool
from relaygr.rpc.lane_caller import AGE_MAX_S
from relaygr.rpc.lane_server import FRAME_BYTES_MAX, LaneServer
from relaygr.rpc.lane_wire import LENGTH_BYTES
from relaygr.rpc.status import error_of
from relaygr.v1.lane_pb2 import CallerFrame, ServerFrame
from services.router.adapters.rankers import answer_of
from tests.contract.lane_world import (
    ASK,
    ASK_ALONE,
    PROBE,
    Holding,
    asking,
    bare,
    carried,
    clock,
    connections,
    greeting,
    on_wire,
    over_a_lane,
    probed,
    ranker_of,
    settled,
    turns,
    unasked,
    watched,
    where,
)
from tests.contract.rpc_world import World, call_failing, world

__all__ = ["clock", "world"]


# Servers that stop


async def test_a_stopping_server_answers_what_it_has_and_takes_no_more(world: World) -> None:
    held = Holding()
    stub = await over_a_lane(world, held)
    call = stub.Rank(ASK, timeout=20)
    await held.began.wait()
    stopping = asyncio.create_task(world.servers[0].stop(30))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await carried(stub, but=held.contexts[0].peer())
    # gRPC's own word: UNAVAILABLE, or CANCELLED when the call came just before its port was closed.
    assert isinstance(error_of(caught.value, "ranker"), Unreachable)
    assert not stopping.done()
    held.release.set()
    assert (await call).instance_id == "u"
    await asyncio.wait_for(stopping, 5)
    assert (await call_failing(stub.Rank, PROBE)).code() is grpc.StatusCode.UNAVAILABLE


async def test_calls_sent_before_their_caller_heard_of_the_stop_are_answered(world: World) -> None:
    held = Holding()
    held.release.set()
    stub = await over_a_lane(world, held)
    calls = [stub.Rank(ASK, timeout=20) for _ in range(10)]
    await asyncio.wait_for(world.servers[0].stop(30), 5)
    assert [(await call).instance_id for call in calls] == ["u"] * 10


async def test_stopping_does_not_wait_for_an_idle_lane(world: World) -> None:
    await over_a_lane(world)
    await asyncio.wait_for(world.servers[0].stop(30), 2)
    assert not connections(world)


async def test_stopping_does_not_wait_for_callers_that_never_leave(world: World) -> None:
    there = await where(await world.ranker(watched(unasked)))
    async with bare(there.port) as caller, bare(there.port) as stranger:
        caller.say(greeting(there.token))
        await caller.heard()
        await asyncio.wait_for(world.servers[0].stop(30), 2)
        await caller.heard_to_the_end()
        assert not await stranger.heard_to_the_end()


async def test_calls_that_outlast_the_grace_fail_and_are_cancelled(world: World) -> None:
    held = Holding()
    stub = await over_a_lane(world, held)
    call = stub.Rank(ASK, timeout=20)
    await held.began.wait()
    await asyncio.wait_for(world.servers[0].stop(0.05), 5)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    await asyncio.wait_for(held.cancelled.wait(), 5)


async def test_a_call_that_crosses_the_word_of_the_stop_is_answered(world: World) -> None:
    there = await where(await world.ranker(watched(unasked)))
    async with bare(there.port) as caller:
        caller.say(greeting(there.token))
        assert await caller.heard() == ServerFrame()
        stopping = asyncio.create_task(world.servers[0].stop(30))
        assert (await caller.heard()).is_draining
        await turns()
        caller.say(asking(1, PROBE))
        while (reply := await caller.heard()).is_draining:
            pass
        assert (reply.call_id, reply.code) == (1, 0)
    await asyncio.wait_for(stopping, 5)


async def test_a_lane_that_is_greeted_by_a_stopping_server_takes_no_calls(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[LaneServer] = []

    def opened_last(self: LaneServer, lane: Any) -> bool:
        is_welcome = real(self, lane)
        self.is_draining = True
        opened.append(self)
        return is_welcome

    real = LaneServer.opened
    monkeypatch.setattr(LaneServer, "opened", opened_last)
    stub = world.to_ranker(await world.ranker(watched(unasked)))
    ways = {await probed(stub) for _ in range(50)}
    assert opened and ways == {""}
    await settled(lambda: not connections(world))


async def test_a_stopping_server_turns_new_lanes_away(world: World) -> None:
    there = await where(await world.ranker(watched(unasked)))
    world.servers[0]._lanes.is_draining = True
    async with bare(there.port) as late:
        late.say(greeting(there.token), asking(1, PROBE))
        assert not await late.heard_to_the_end()


# Connections that break, channels that are closed


async def test_a_lane_that_breaks_fails_what_it_carried_and_calls_go_on(world: World) -> None:
    held = Holding()
    stub = await over_a_lane(world, held)
    call = stub.Rank(ASK, timeout=20)
    await held.began.wait()
    for connection in tuple(connections(world)):
        connection.abort()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert isinstance(error_of(caught.value, "ranker"), Unreachable)
    await asyncio.wait_for(held.cancelled.wait(), 5)
    assert await carried(stub, but=held.contexts[0].peer())


@pytest.mark.parametrize("has_lanes", [False, True], ids=["grpc", "lane"])
async def test_closing_the_pool_fails_calls_on_their_way(world: World, has_lanes: bool) -> None:
    held = Holding()
    address = await world.ranker(watched(held))
    pool = ChannelPool(world.telemetry, has_lanes=has_lanes)
    stub = ranker_of(pool, address)
    if has_lanes:
        await carried(stub)
    call = stub.Rank(ASK if has_lanes else ASK_ALONE, timeout=20)
    answering = asyncio.create_task(answer_of(call, address))
    await held.began.wait()
    await pool.close()
    with pytest.raises(Unreachable):
        await answering
    await asyncio.wait_for(held.cancelled.wait(), 5)
    assert not connections(world)


async def test_closing_the_pool_while_a_lane_opens_leaves_no_connection(world: World) -> None:
    address = await world.ranker(watched(unasked))
    for calls in range(5):
        stub = world.to_ranker(address)
        for _ in range(calls):
            await probed(stub)
        await world.pool.close()
    await settled(lambda: not connections(world))


# Age and silence


async def test_an_old_lane_is_replaced_and_no_call_fails(world: World, clock: list[float]) -> None:
    held = Holding()
    stub = await over_a_lane(world, held)
    call = stub.Rank(ASK, timeout=20)
    await held.began.wait()
    clock[0] += AGE_MAX_S - 1
    assert await probed(stub) == held.contexts[0].peer()
    clock[0] += 2
    new = await carried(stub, but=held.contexts[0].peer())
    held.release.set()
    assert (await call).instance_id == "u"
    await settled(lambda: len(connections(world)) == 1)
    assert await probed(stub) == new


async def test_a_call_that_a_replaced_lane_carries_can_be_cancelled(world: World, clock: list[float]) -> None:
    held = Holding()
    stub = await over_a_lane(world, held)
    call = stub.Rank(ASK, timeout=20)
    await held.began.wait()
    clock[0] += AGE_MAX_S + 1
    await carried(stub, but=held.contexts[0].peer())
    assert call.cancel()
    await asyncio.wait_for(held.cancelled.wait(), 5)
    await settled(lambda: len(connections(world)) == 1)


async def test_the_end_of_a_caller_cancels_what_a_replaced_lane_carries(world: World, clock: list[float]) -> None:
    held = Holding()
    stub = await over_a_lane(world, held)
    call = stub.Rank(ASK, timeout=20)
    await held.began.wait()
    clock[0] += AGE_MAX_S + 1
    await carried(stub, but=held.contexts[0].peer())
    await world.pool.close()
    with pytest.raises(grpc.aio.AioRpcError):
        await call
    await asyncio.wait_for(held.cancelled.wait(), 5)
    await settled(lambda: not connections(world))


async def test_a_call_that_expires_with_nothing_heard_retires_the_lane(world: World) -> None:
    held = Holding()
    stub = await over_a_lane(world, held)
    calls = [stub.Rank(ASK, timeout=0.1) for _ in range(3)]
    failed = await asyncio.gather(*calls, return_exceptions=True)
    assert {error.code() for error in failed} == {grpc.StatusCode.DEADLINE_EXCEEDED}
    assert await carried(stub, but=held.contexts[0].peer())
    await settled(lambda: len(connections(world)) == 1)


async def test_a_call_that_expires_while_others_are_answered_retires_nothing(world: World) -> None:
    held = Holding()
    stub = await over_a_lane(world, held)
    call = stub.Rank(ASK, timeout=0.2)
    lane = await probed(stub)
    with pytest.raises(grpc.aio.AioRpcError):
        await call
    assert await probed(stub) == lane == held.contexts[0].peer()


# Strangers

WRONG = b"0123456789abcdef"

INTRUSIONS: dict[str, Callable[[bytes], bytes]] = {
    "a call first": lambda token: on_wire(asking(1)),
    "a cancellation first": lambda token: on_wire(CallerFrame(call_id=1, cancel=True), asking(1)),
    "a wrong token": lambda token: on_wire(greeting(WRONG), asking(1)),
    "half of the token": lambda token: on_wire(greeting(token[:8]), asking(1)),
    "no token": lambda token: on_wire(greeting(b""), asking(1)),
    "nothing in a frame": lambda token: on_wire(CallerFrame(), asking(1)),
    "the token after a wrong one": lambda token: on_wire(greeting(WRONG), greeting(token), asking(1)),
    "another protocol": lambda token: b"GET / HTTP/1.1\r\n\r\n",
    "garbage": lambda token: (2).to_bytes(LENGTH_BYTES, "big") + b"\xff\xff" + on_wire(greeting(token), asking(1)),
    "a frame that is too long": lambda token: (FRAME_BYTES_MAX + 1).to_bytes(LENGTH_BYTES, "big"),
}


@pytest.mark.parametrize("said", INTRUSIONS.values(), ids=INTRUSIONS.keys())
async def test_who_does_not_say_the_token_is_cut_off(world: World, said: Callable[[bytes], bytes]) -> None:
    held = Holding()
    there = await where(await world.ranker(watched(held)))
    async with bare(there.port) as stranger:
        stranger.say_raw(said(there.token))
        assert not await stranger.heard_to_the_end()
    await asyncio.wait_for(world.servers[0].stop(30), 5)
    assert not held.contexts


async def test_who_says_nothing_is_cut_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_server, "GREETING_S", 0.05)
    there = await where(await world.ranker(watched(unasked)))
    async with bare(there.port) as caller, bare(there.port) as stranger:
        caller.say(greeting(there.token))
        assert await caller.heard() == ServerFrame()
        assert not await stranger.heard_to_the_end()
        caller.say(asking(1, PROBE))
        assert (await caller.heard()).call_id == 1


OFFENCES: dict[str, Callable[[bytes], bytes]] = {
    "a second greeting": lambda token: on_wire(greeting(token)),
    "a call without a number": lambda token: on_wire(asking(0)),
    "two calls of one number": lambda token: on_wire(asking(1), asking(1), asking(2)),
    "nothing in a frame": lambda token: on_wire(CallerFrame()),
    "garbage": lambda token: (2).to_bytes(LENGTH_BYTES, "big") + b"\xff\xff",
    "a frame that is too long": lambda token: (FRAME_BYTES_MAX + 1).to_bytes(LENGTH_BYTES, "big"),
}


@pytest.mark.parametrize("said", OFFENCES.values(), ids=OFFENCES.keys())
async def test_who_breaks_the_rules_is_cut_off_and_leaves_nothing(world: World, said: Callable[[bytes], bytes]) -> None:
    there = await where(await world.ranker(watched(Holding())))
    async with bare(there.port) as caller:
        caller.say(greeting(there.token))
        await caller.heard()
        caller.say_raw(said(there.token))
        assert not await caller.heard_to_the_end()
    await asyncio.wait_for(world.servers[0].stop(30), 5)


async def test_cancelling_what_is_not_there_changes_nothing(world: World) -> None:
    there = await where(await world.ranker(watched(unasked)))
    async with bare(there.port) as caller:
        caller.say(greeting(there.token), CallerFrame(call_id=7, cancel=True), asking(1, PROBE))
        assert [(await caller.heard()).call_id for _ in range(2)] == [0, 1]
