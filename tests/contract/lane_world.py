"""Rankers whose calls come over lanes, and bare connections to where lanes are taken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import grpc
import pytest

from relaygr.rpc import traced_channel
from relaygr.rpc.channel import ChannelPool
from relaygr.rpc.lane_caller import Lanes
from relaygr.rpc.lane_context import LaneContext
from relaygr.rpc.lane_wire import LENGTH_BYTES
from relaygr.v1 import ranker_pb2, ranker_pb2_grpc
from relaygr.v1.lane_pb2 import CallerFrame, LaneCall, OpenRequest, OpenResponse, ServerFrame
from relaygr.v1.lane_pb2_grpc import LaneServiceStub
from tests.contract.rpc_world import RANK, RankFn, World

PROBE = ranker_pb2.RankRequest()
"""Answered with the name of the lane that carried it; empty when none did."""
ASK = ranker_pb2.RankRequest(user="u")
"""Served by the test's own function, and never but over a lane."""
ASK_ALONE = ranker_pb2.RankRequest(user="u", tenant="alone")
"""The same, never over a lane."""


def watched(rank: RankFn) -> RankFn:
    """Answers probes, and serves the others when they came by the way they should."""

    async def served(request: Any, context: Any) -> Any:
        is_carried = isinstance(context, LaneContext)
        if not request.user:
            return ranker_pb2.RankResponse(instance_id=context.peer() if is_carried else "")
        assert is_carried == (request.tenant != "alone")
        return await rank(request, context)

    return served


class Holding:
    """Serves calls when they are let go; keeps what it sees."""

    def __init__(self) -> None:
        self.contexts: list[Any] = []
        self.left_s: list[float | None] = []
        self.began, self.release, self.cancelled = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def __call__(self, request: Any, context: Any) -> Any:
        self.contexts.append(context)
        self.left_s.append(context.time_remaining())
        self.began.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return ranker_pb2.RankResponse(instance_id=request.user)


async def unasked(request: Any, context: Any) -> Any:
    raise AssertionError("only probes are expected")


async def probed(stub: Any) -> str:
    """The lane that carried a call; empty: none."""
    return str((await stub.Rank(PROBE, timeout=5)).instance_id)


async def carried(stub: Any, *, but: str = "") -> str:
    """Call until a lane carries a call, and not the one named `but`; none of the calls may fail."""
    async with asyncio.timeout(10):
        while (lane := await probed(stub)) in ("", but):
            pass
    return lane


async def over_a_lane(world: World, rank: RankFn = unasked, **options: Any) -> Any:
    """A stub to a ranker that serves by `rank`, with a lane open."""
    stub = world.to_ranker(await world.ranker(watched(rank), **options))
    await carried(stub)
    return stub


async def settled(condition: Callable[[], bool]) -> None:
    """Wait for what happens behind an answer's back."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  (the state is a counter, not an event)
            await asyncio.sleep(0.001)


async def turns() -> None:
    """Let everybody do what can be done at once."""
    for _ in range(50):
        await asyncio.sleep(0)


def connections(world: World) -> set[Any]:
    """Of the one server, those over which lanes come."""
    return world.servers[0]._lanes._lanes


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds, by which channels made from now on open and replace their lanes."""
    now_s = [0.0]
    monkeypatch.setattr(traced_channel, "Lanes", partial(Lanes, clock_s=lambda: now_s[0]))
    return now_s


@pytest.fixture
async def alone(world: World) -> AsyncIterator[ChannelPool]:
    """Channels that use no lanes."""
    made = ChannelPool(world.telemetry, has_lanes=False)
    yield made
    await made.close()


def ranker_of(pool: ChannelPool, address: str) -> Any:
    return ranker_pb2_grpc.RankerServiceStub(pool.get(address))


# Bare connections


def on_wire(*frames: CallerFrame) -> bytes:
    raw = [frame.SerializeToString() for frame in frames]
    return b"".join(len(one).to_bytes(LENGTH_BYTES, "big") + one for one in raw)


def greeting(token: bytes) -> CallerFrame:
    return CallerFrame(greeting=token)


def asking(call_id: int, request: ranker_pb2.RankRequest = ASK, timeout_ns: int = 0) -> CallerFrame:
    call = LaneCall(method=f"/{RANK}", request=request.SerializeToString(), timeout_ns=timeout_ns)
    return CallerFrame(call_id=call_id, call=call)


async def where(address: str) -> OpenResponse:
    """Where a server takes lanes."""
    async with grpc.aio.insecure_channel(address) as channel:
        return await LaneServiceStub(channel).Open(OpenRequest(), timeout=5)


class Bare:
    """A connection that says what it is told to say."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def say(self, *frames: CallerFrame) -> None:
        self.say_raw(on_wire(*frames))

    def say_raw(self, data: bytes) -> None:
        self._writer.write(data)

    async def heard(self) -> ServerFrame:
        async with asyncio.timeout(5):
            length = int.from_bytes(await self._reader.readexactly(LENGTH_BYTES), "big")
            return ServerFrame.FromString(await self._reader.readexactly(length))

    async def heard_to_the_end(self) -> bytes:
        """What comes before the other end closes."""
        async with asyncio.timeout(5):
            try:
                return await self._reader.read()
            except ConnectionResetError:
                return b""


@asynccontextmanager
async def bare(port: int) -> AsyncIterator[Bare]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Bare(reader, writer)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
