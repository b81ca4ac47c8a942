"""Lanes and their callers are bounded: calls, connections, unsent bytes, questions where lanes are."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from relaygr.rpc import lane_caller
from relaygr.rpc.lane_caller import REQUEST_BYTES_MAX, RETRY_REFUSED_S, RETRY_S
from relaygr.rpc.lane_server import LaneServer
from relaygr.v1 import ranker_pb2
from relaygr.v1.lane_pb2 import ServerFrame
from tests.contract.lane_world import (
    ASK,
    ASK_ALONE,
    Bare,
    Holding,
    asking,
    bare,
    carried,
    clock,
    connections,
    greeting,
    over_a_lane,
    probed,
    settled,
    turns,
    unasked,
    watched,
    where,
)
from tests.contract.rpc_world import World, call_failing, world

__all__ = ["clock", "world"]


async def test_calls_beyond_the_bound_are_refused_until_one_ends(world: World) -> None:
    held = Holding()
    stub = await over_a_lane(world, held, concurrent_rpcs_max=3)
    calls = [stub.Rank(ASK, timeout=20) for _ in range(3)]
    failed = await call_failing(stub.Rank, ASK)
    assert failed.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    held.release.set()
    assert [(await call).instance_id for call in calls] == ["u"] * 3
    assert await probed(stub)


async def test_lanes_beyond_the_bound_are_closed_until_one_ends() -> None:
    lanes = LaneServer(calls_max=1, lanes_max=1)
    port = await lanes.start("127.0.0.1", 0)

    async def greeted(caller: Bare) -> bool:
        caller.say(greeting(lanes.token))
        try:
            return await caller.heard() == ServerFrame()
        except (asyncio.IncompleteReadError, ConnectionResetError):
            return False

    async with bare(port) as first:
        assert await greeted(first)
        async with bare(port) as second:
            assert not await greeted(second)
    await settled(lambda: not lanes._lanes)
    async with bare(port) as third:
        assert await greeted(third)
    await lanes.stop(0)


async def test_calls_that_a_lane_has_no_room_for_go_by_grpc(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_caller, "CALLS_MAX", 2)
    held = Holding()
    stub = await over_a_lane(world, held)
    calls = [stub.Rank(request, timeout=20) for request in (ASK, ASK, ASK_ALONE)]
    await settled(lambda: len(held.contexts) == 3)
    held.release.set()
    assert [(await call).instance_id for call in calls] == ["u"] * 3
    assert await probed(stub)


async def test_a_server_that_reads_too_slowly_is_called_by_grpc_meanwhile(world: World) -> None:
    async def rank(request: Any, context: Any) -> Any:
        return ranker_pb2.RankResponse(instance_id=request.user)

    address = await world.ranker(watched(rank))
    stub = world.to_ranker(address)
    lane = await carried(stub)
    (served,) = connections(world)
    served._transport.pause_reading()
    calling = world.pool.get(address)._lanes._lane
    large = ranker_pb2.RankRequest(user="u", request_id="x" * (REQUEST_BYTES_MAX - 100))
    calls = []
    while not calling.is_congested:
        calls.append(stub.Rank(large, timeout=20))
    assert await probed(stub) == ""
    served._transport.resume_reading()
    assert {(await call).instance_id for call in calls} == {"u"}
    assert await carried(stub) == lane


async def test_a_caller_that_does_not_read_its_replies_is_not_read(world: World) -> None:
    began: list[int] = []

    async def rank(request: Any, context: Any) -> Any:
        began.append(len(began))
        return ranker_pb2.RankResponse(logits=bytes(1024 * 1024))

    async def begun(count: int) -> None:
        await settled(lambda: len(began) == count)

    there = await where(await world.ranker(watched(rank)))
    async with bare(there.port) as caller:
        caller.say(greeting(there.token))
        await settled(lambda: bool(connections(world)))
        (served,) = connections(world)
        said = 0
        while served._transport.is_reading():
            said += 1
            caller.say(asking(said))
            await begun(said)
        caller.say(asking(said + 1))
        await turns()
        assert len(began) == said
        assert [(await caller.heard()).call_id for _ in range(said + 2)] == list(range(said + 2))


async def test_a_server_without_lanes_is_seldom_asked_again(
    world: World, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    async def noted(self: LaneServer, request: Any, context: Any) -> Any:
        asked.append(clock[0])
        return await real(self, request, context)

    real = LaneServer.Open
    monkeypatch.setattr(LaneServer, "Open", noted)
    stub = world.to_ranker(await world.ranker(watched(unasked), lane_port=None))
    for now_s in (0.0, 0.0, RETRY_S + 1, RETRY_REFUSED_S - 1, RETRY_REFUSED_S + 1, RETRY_REFUSED_S + 1):
        clock[0] = now_s
        for _ in range(20):
            assert await probed(stub) == ""
    assert asked == [0.0, RETRY_REFUSED_S + 1]


async def test_a_port_that_cannot_be_reached_costs_no_call(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def open_elsewhere(self: LaneServer, request: Any, context: Any) -> Any:
        assert self._listener is not None
        self._listener.close()
        return await real(self, request, context)

    real = LaneServer.Open
    monkeypatch.setattr(LaneServer, "Open", open_elsewhere)
    stub = world.to_ranker(await world.ranker(watched(unasked)))
    assert {await probed(stub) for _ in range(50)} == {""}


async def test_another_process_at_the_port_is_not_mistaken_for_the_server(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def open_other(self: LaneServer, request: Any, context: Any) -> Any:
        response = await real(self, request, context)
        response.token = b"of another server"
        return response

    real = LaneServer.Open
    monkeypatch.setattr(LaneServer, "Open", open_other)
    stub = world.to_ranker(await world.ranker(watched(unasked)))
    assert {await probed(stub) for _ in range(50)} == {""}
    await settled(lambda: not connections(world))


async def test_metadata_beyond_what_http2_carries_is_left_to_grpc(world: World) -> None:
    stub = await over_a_lane(world)
    failed = []
    for _ in range(2):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Rank(ASK, timeout=5, metadata=(("relaygr-long", "x" * 100_000),))
        failed.append(caught.value.code())
    assert failed == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 2
    assert await probed(stub)
