"""Frames of lanes, in any order and cut anywhere: what callers write, and what servers answer.

An input is a line that says which, and the bytes. The token's place in a greeting is taken by that of the server that
it is given to.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import grpc

from relaygr.rpc.lane_caller import _Lane
from relaygr.rpc.lane_server import LaneServer, _ServedLane
from relaygr.rpc.lane_wire import LENGTH_BYTES
from relaygr.rpc.server import RpcServer
from relaygr.v1 import ranker_pb2, ranker_pb2_grpc
from relaygr.v1.lane_pb2 import CallerFrame, LaneCall, LaneMetadata, ServerFrame
from tests.contract.rpc_world import RANK, Ranker
from tests.fuzz import ground, messages, raw
from tests.fuzz.subject import Subject, choose
from tests.fuzz.verdict import ACCEPTED, Verdict, crash, rejected

TOKEN = b"the token's lair"
OVER_THE_WIRE = 0.005
ANSWERS = 0.3
ASKED = 3
"""Calls on their way when answers come."""
LANE_CALLS_MAX = 32
BUGS = {code.value[0] for code in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL)}
METHODS = (f"/{RANK}", "/relaygr.v1.RankerService/Nothing", "", "/grpc.health.v1.Health/Check")


class Transport(asyncio.Transport):
    """Takes what a lane sends, and tells whether it closed."""

    def __init__(self, connection: Any) -> None:
        super().__init__({"socket": connection, "peername": ("fuzz", 1)})
        self.heard = bytearray()
        self.is_over = False

    def write(self, data: Any) -> None:
        self.heard += data

    def is_closing(self) -> bool:
        return self.is_over

    def close(self) -> None:
        self.is_over = True

    def abort(self) -> None:
        self.is_over = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Deaf:
    """A socket without options."""

    def setsockopt(self, *option: Any) -> None:
        pass


class Lanes(Subject):
    """Connections of one caller each."""

    def __init__(self, server: LaneServer, port: int) -> None:
        self._server, self._port = server, port

    def draw(self, random: Random) -> bytes:
        if random.random() < ANSWERS:
            return b"answer\n" + _answers(random)
        frames = [
            CallerFrame(greeting=TOKEN),
            *(_frame(random) for _ in range(random.choice((0, 1, 1, 1, 2, 3, 5, 40)))),
        ]
        what = choose(
            random, (20, "honest"), (45, "changed"), (8, "mixed"), (20, "bytes"), (4, "filled"), (3, "random")
        )
        if what == "random":
            return random.randbytes(random.randrange(300))
        if what == "changed":
            for _ in range(random.choice((1, 1, 2, 4))):
                messages.changed(random, frames[-1 if random.random() < 0.9 else 0], ground.KEY)
        if what == "mixed":
            random.shuffle(frames)
        if what == "filled":
            frames[-1] = messages.filled(random, CallerFrame())
        written = [frame.SerializeToString() for frame in frames]
        if what == "bytes" and random.random() < 0.6:
            written[-1] = messages.mutated_bytes(random, written[-1], random.choice(written))
            what = "honest"
        told = b"".join(len(one).to_bytes(LENGTH_BYTES, "big") + one for one in written)
        way = b"wire\n" if random.random() < OVER_THE_WIRE else b"direct\n"
        return way + (raw.mutated(random, told) if what == "bytes" else told)

    async def give(self, data: bytes) -> Verdict:
        way, _, told = data.partition(b"\n")
        if way == b"answer":
            return await _answered(told)
        # The token is drawn when a server starts; its place in an input is as long.
        told = told.replace(TOKEN, self._server.token)
        answered = await (self._over_the_wire(told) if way == b"wire" else self._directly(told))
        return _judged(answered)

    async def _directly(self, told: bytes) -> bytes:
        lane, transport = _ServedLane(self._server), Transport(Deaf())
        lane.connection_made(transport)
        at, step = 0, max(1, len(told) // 3 + 1)
        while at < len(told) and not transport.is_over:
            lane.data_received(told[at : at + step])
            at += step
            await asyncio.sleep(0)
        # What was begun is answered, or the connection was cut.
        while lane._tasks and not transport.is_over:  # noqa: ASYNC110  (what the lane has is a table, not an event)
            await asyncio.sleep(0)
        transport.is_over = True
        lane.connection_lost(None)
        while lane._tasks:  # noqa: ASYNC110
            await asyncio.sleep(0)
        return bytes(transport.heard)

    async def _over_the_wire(self, told: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(told)
        heard = b""
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(0.05):
                while piece := await reader.read(65_536):
                    heard += piece
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        return heard

    async def settle(self) -> None:
        async with asyncio.timeout(5):
            while self._server._lanes or self._server._calls:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    def sizes(self) -> dict[str, tuple[int, int]]:
        return {"lanes": (len(self._server._lanes), 0), "calls": (self._server._calls, 0)}

    async def still_serves(self) -> str:
        frames = [CallerFrame(greeting=TOKEN), _call(1)]
        written = [frame.SerializeToString() for frame in frames]
        told = b"direct\n" + b"".join(len(one).to_bytes(LENGTH_BYTES, "big") + one for one in written)
        verdict = await self.give(told)
        return "" if verdict is ACCEPTED else f"{verdict.kind.value} {verdict.detail}"


def _call(number: int, method: str = METHODS[0], request: bytes = b"\x12\x01u", **fields: Any) -> CallerFrame:
    return CallerFrame(call_id=number, call=LaneCall(method=method, request=request, **fields))


def _frame(random: Random) -> CallerFrame:
    number = random.randrange(1, LANE_CALLS_MAX)
    if random.random() < 0.2:
        return CallerFrame(call_id=number, cancel=True)
    method = METHODS[0] if random.random() < 0.8 else random.choice(METHODS)
    request = ranker_pb2.RankRequest(user="u", request_id=random.choice(("", "fails", "waits"))).SerializeToString()
    metadata = [LaneMetadata(key="traceparent", value="00-" + "1" * 32 + "-" + "2" * 16 + "-01")]
    timeout_ns = random.choice((0, 1, 1_000_000, 10**9))
    return _call(number, method, request, timeout_ns=timeout_ns, metadata=metadata)


def _answers(random: Random) -> bytes:
    """What a server says to a greeting and a few calls."""
    frames = [ServerFrame()]
    for number in random.sample(range(1, ASKED + 2), random.choice((1, 2, ASKED))):
        frames.append(ServerFrame(call_id=number, response=b"scores"))
        if random.random() < 0.3:
            trailing = [LaneMetadata(key="relaygr-error", value="Refused")]
            frames[-1] = ServerFrame(call_id=number, code=8, details="busy", trailing_metadata=trailing)
    if random.random() < 0.2:
        frames.append(ServerFrame(is_draining=True))
    if random.random() < 0.6:
        for _ in range(random.choice((1, 1, 3))):
            messages.changed(random, random.choice(frames), ground.KEY)
    written = [frame.SerializeToString() for frame in frames]
    if random.random() < 0.2:
        written[-1] = messages.mutated_bytes(random, written[-1], random.choice(written))
    told = b"".join(len(one).to_bytes(LENGTH_BYTES, "big") + one for one in written)
    return raw.mutated(random, told) if random.random() < 0.15 else told


async def _answered(told: bytes) -> Verdict:
    """Each call must end with an answer or a status, whatever the server said before it was gone."""
    lane = _Lane(retires_s=1e18, begun=lambda _: None, ended=lambda _: None)
    transport = Transport(Deaf())
    lane.connection_made(transport)
    greeting = asyncio.ensure_future(lane.greet(b"token", 1.0))
    await asyncio.sleep(0)
    calls = [lane.call(METHODS[0], b"", 1.0, None, bytes) for _ in range(ASKED)]
    for at in range(0, len(told), len(told) // 2 + 1):
        if not transport.is_over:
            lane.data_received(told[at : at + len(told) // 2 + 1])
    lane.connection_lost(None)
    ends = await asyncio.gather(_end_of(greeting), *(_end_of(call) for call in calls))
    if lane.calls:
        return crash("a call is left on a lane that was lost")
    return ACCEPTED if b"scores" in ends else rejected("no answer to a call")


async def _end_of(call: Any) -> Any:
    try:
        return await call
    except (grpc.aio.AioRpcError, OSError) as error:
        return error


def _judged(heard: bytes) -> Verdict:
    is_answered, problem = False, "was cut off"
    while heard:
        length = int.from_bytes(heard[:LENGTH_BYTES], "big")
        frame = ServerFrame.FromString(heard[LENGTH_BYTES : LENGTH_BYTES + length])
        heard = heard[LENGTH_BYTES + length :]
        if frame.code in BUGS:
            return crash(f"status {frame.code}: {frame.details}")
        is_answered = is_answered or (frame.call_id > 0 and frame.code == 0)
        problem = frame.details or problem
    return ACCEPTED if is_answered else rejected(problem)


async def _rank(request: Any, context: Any) -> Any:
    await asyncio.sleep(0.001 if request.request_id == "waits" else 0)
    return ranker_pb2.RankResponse(instance_id=request.user)


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Subject]:
    server = RpcServer(service_name="ranker", address="127.0.0.1:0", telemetry=ground.quiet())
    server.add(ranker_pb2_grpc.add_RankerServiceServicer_to_server, Ranker(_rank), "relaygr.v1.RankerService")
    await server.start()
    lanes = server._lanes
    yield Lanes(lanes, lanes._port)
    await server.stop(0)
