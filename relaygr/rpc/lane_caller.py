"""Unary calls over one connection that stays open, on the caller's side.

A unary call of grpc.aio wakes two threads at each end and runs through a large library several
times; at the rates of one instance its caches are cold each time, and a call costs two
milliseconds of processor. The same bytes as a frame on an open connection cost a quarter.

A lane makes calls cheaper and nothing else. Each method stays a unary call of gRPC, which is made
instead while no lane is open (the first calls, after a failure, where the port cannot be reached,
when the server does not know lanes), for a large request, and when the lane is busy. So whoever
calls sees one behaviour, with gRPC's errors; a lane that breaks fails what it carried as
UNAVAILABLE, as a broken channel does.

    none ──a call──► OPENING ──greeted back──► OPEN ──server drains, age──► RETIRED ──all ended──► none
      ▲                 │ failed                  │ broke, silent
      └── later ────────┴─────────────────────────┘

A lane is replaced after a minute, so that calls spread again when servers behind a name change.

Source: design, section 5, invariants I3, I6; docs/decisions/0011-lanes.md.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Generator
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from relaygr.rpc.lane_counts import CALLER, LaneCounts
from relaygr.rpc.lane_wire import TLS_SHUTDOWN_S, Framed
from relaygr.v1.lane_pb2 import CallerFrame, LaneCall, LaneMetadata, OpenRequest, ServerFrame
from relaygr.v1.lane_pb2_grpc import LaneServiceStub

_log = logging.getLogger(__name__)

REQUEST_BYTES_MAX = 64 * 1024
"""A larger request is a call of gRPC: it would hold up the small ones behind it."""
REPLY_BYTES_MAX = 8 * 1024 * 1024
"""As channels' limit."""
FRAME_BYTES_MAX = REPLY_BYTES_MAX + 64 * 1024
"""A reply, and what a frame says beside it."""
METADATA_CHARACTERS_MAX = 8 * 1024
"""More is left to gRPC, which refuses it for its call alone."""
CALLS_MAX = 1024
"""On their way over one lane; further ones are calls of gRPC."""
OPEN_TIMEOUT_S = 1.0
"""Of each step of opening."""
CLOSE_TURNS = 3
"""Of the event loop, from closing a connection until it is closed."""
AGE_MAX_S = 60.0
RETRY_S = 1.0
"""After a lane that failed."""
RETRY_REFUSED_S = 30.0
"""After a server without lanes, or whose port cannot be reached: that seldom changes."""

CODES = {code.value[0]: code for code in grpc.StatusCode}

Secured = Callable[[], tuple[ssl.SSLContext, str]]
"""Makes what one lane is made with, and the name that the server's certificate must hold."""


class Lanes:
    """The lane of one channel, opened when the first call asks for one; belongs to one event loop.

    Args:
        channel: by which the server is asked where its lanes are.
        host: of the channel's address.
        clock_s: monotonic seconds.
        counts: of all lanes together with this channel's.
        secured: asked for each lane that is opened; None: plain text.
    """

    def __init__(
        self,
        channel: Any,
        host: str,
        clock_s: Callable[[], float] = time.monotonic,
        counts: LaneCounts | None = None,
        secured: Secured | None = None,
    ) -> None:
        self._secured = secured
        self.counts = counts or LaneCounts(CALLER)
        self._stub = LaneServiceStub(channel)
        self._host = host
        self._clock_s = clock_s
        self._lane: _Lane | None = None
        self._lanes: set[_Lane] = set()
        """Connected ones: the open one, and those that end."""
        self._is_told = False
        self._opening: asyncio.Task[None] | None = None
        self._not_before_s = 0.0

    def ready(self) -> _Lane | None:
        """A lane that takes a call now, or None; opens one when it is time to."""
        lane, now_s = self._lane, self._clock_s()
        if lane is not None and lane.is_open:
            if now_s < lane.retires_s:
                return None if lane.is_congested or lane.calls >= CALLS_MAX else lane
            lane.retire()
        if self._opening is None and now_s >= self._not_before_s:
            self._opening = asyncio.get_running_loop().create_task(self._open(), name="lane: open")
        return None

    def why_not(self) -> str:
        """Why the call that `ready` had no lane for goes by gRPC."""
        return "BUSY" if self._lane is not None and self._lane.is_open else "NOT_OPEN"

    async def close(self) -> None:
        """Give all up; calls on their way fail as UNAVAILABLE."""
        self._not_before_s = float("inf")
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        for lane in tuple(self._lanes):
            lane.abort()
        for _ in range(CLOSE_TURNS):
            # In one of these the transports hear that they are closed.
            await asyncio.sleep(0)

    async def _open(self) -> None:
        retry_s = RETRY_S
        try:
            where = await self._stub.Open(OpenRequest(), timeout=OPEN_TIMEOUT_S)
            retry_s = RETRY_REFUSED_S
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                lane = await self._connect(where.port)
            await lane.greet(where.token, OPEN_TIMEOUT_S)
            self._lane, retry_s = lane, 0.0
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                retry_s = RETRY_REFUSED_S
        except (OSError, TimeoutError) as error:
            self._tell(error)
        finally:
            self._opening = None
            self._not_before_s = max(self._not_before_s, self._clock_s() + retry_s)

    async def _connect(self, port: int) -> _Lane:
        retires_s = self._clock_s() + AGE_MAX_S
        tls: dict[str, Any] = {}
        if self._secured is not None:
            context, name = self._secured()
            tls = {"ssl": context, "server_hostname": name, "ssl_shutdown_timeout": TLS_SHUTDOWN_S}
        _, lane = await asyncio.get_running_loop().create_connection(
            lambda: _Lane(retires_s=retires_s, begun=self._begun, ended=self._ended), self._host, port, **tls
        )
        return lane

    def _begun(self, lane: _Lane) -> None:
        self._lanes.add(lane)
        self.counts.connections += 1

    def _ended(self, lane: _Lane) -> None:
        if lane in self._lanes:
            self._lanes.discard(lane)
            self.counts.connections -= 1

    def _tell(self, error: Exception) -> None:
        """Say it once; where a port is not reachable, that is how it stays."""
        if not self._is_told:
            self._is_told = True
            _log.info("no lane to %s, calls go by gRPC alone: %s", self._host, error or "no answer")


class LaneMethod:
    """One unary method of a channel: over the lane when there is one, else a call of gRPC."""

    __slots__ = ("_alone", "_lanes", "_parse", "_path", "_serialize")

    def __init__(
        self,
        lanes: Lanes,
        alone: Any,
        path: str,
        serialize: Callable[[Any], bytes] | None,
        parse: Callable[[bytes], Any] | None,
    ) -> None:
        self._lanes = lanes
        self._alone = alone
        self._path = path
        self._serialize = serialize or bytes
        self._parse = parse or bytes

    def __call__(
        self, request: Any, *, timeout: float | None = None, metadata: Any = None, **named: Any
    ) -> LaneUnaryCall | grpc.aio.UnaryUnaryCall:
        """Begin a call; the arguments are those of grpc.aio's."""
        lane = None if named else self._lanes.ready()
        if lane is None:
            why = "OPTIONS" if named else self._lanes.why_not()
        elif not _fits(metadata):
            why = "METADATA"
        else:
            raw = self._serialize(request)
            if len(raw) <= REQUEST_BYTES_MAX:
                self._lanes.counts.calls += 1
                return lane.call(self._path, raw, timeout, metadata, self._parse)
            why = "REQUEST_SIZE"
        self._lanes.counts.fell_back(why)
        return self._alone(request, timeout=timeout, metadata=metadata, **named)


class LaneUnaryCall:
    """A call on its way over a lane; awaited once."""

    __slots__ = ("_call_id", "_lane", "_parse", "_reply", "_timer")

    def __init__(
        self,
        lane: _Lane,
        call_id: int,
        reply: asyncio.Future[ServerFrame],
        timer: asyncio.TimerHandle | None,
        parse: Callable[[bytes], Any],
    ) -> None:
        self._lane = lane
        self._call_id = call_id
        self._reply = reply
        self._timer = timer
        self._parse = parse

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            frame = yield from self._reply
        finally:
            if self._timer is not None:
                self._timer.cancel()
        if frame.code:
            raise _error(CODES.get(frame.code, grpc.StatusCode.UNKNOWN), frame.details, frame.trailing_metadata)
        return self._parse(frame.response)

    def cancel(self) -> bool:
        """Give the call up; False when it was over."""
        if self._timer is not None:
            self._timer.cancel()
        return self._lane.give_up(self._call_id)


class _Lane(Framed):
    """One connection and the calls that it carries."""

    def __init__(self, *, retires_s: float, begun: Callable[[_Lane], None], ended: Callable[[_Lane], None]) -> None:
        super().__init__(FRAME_BYTES_MAX)
        self._begun, self._ended = begun, ended
        self._loop = asyncio.get_running_loop()
        self._greeted: asyncio.Future[None] = self._loop.create_future()
        self._replies: dict[int, asyncio.Future[ServerFrame]] = {}
        self._last_id = 0
        self._heard_s = self._loop.time()
        self._is_retired = False
        self.retires_s = retires_s
        self.is_open = False

    @property
    def calls(self) -> int:
        """On their way."""
        return len(self._replies)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio's."""
        super().connection_made(transport)
        self._begun(self)

    async def greet(self, token: bytes, timeout_s: float) -> None:
        """Open the lane.

        Raises:
            TimeoutError: no answer.
            OSError: the other end is not the server that gave the token.
        """
        self.send(CallerFrame(greeting=token).SerializeToString())
        try:
            async with asyncio.timeout(timeout_s):
                await self._greeted
        except BaseException:
            self.abort()
            raise
        self.is_open = not self._is_retired

    def call(
        self, path: str, request: bytes, timeout_s: float | None, metadata: Any, parse: Callable[[bytes], Any]
    ) -> LaneUnaryCall:
        """Send a call; its reply settles what is returned."""
        self._last_id = call_id = self._last_id + 1
        reply = self._replies[call_id] = self._loop.create_future()
        timer, timeout_ns = None, 0
        if timeout_s is not None:
            timeout_ns = max(1, int(timeout_s * 1e9))
            timer = self._loop.call_later(timeout_s, self._expire, call_id, self._loop.time())
        items = [LaneMetadata(key=key, value=value) for key, value in metadata or ()]
        call = LaneCall(method=path, timeout_ns=timeout_ns, metadata=items, request=request)
        self.send(CallerFrame(call_id=call_id, call=call).SerializeToString())
        return LaneUnaryCall(self, call_id, reply, timer, parse)

    def give_up(self, call_id: int) -> bool:
        """The caller does not wait any more."""
        reply = self._forget(call_id)
        if reply is None:
            return False
        reply.cancel()
        self.send(CallerFrame(call_id=call_id, cancel=True).SerializeToString())
        return True

    def retire(self) -> None:
        """Take no more calls, and end when those on their way have ended; repeatable."""
        self.is_open, self._is_retired = False, True
        if not self._replies:
            self.end()

    def heard(self, frame: bytes) -> None:
        """A reply, the greeting, or a wish for no more calls."""
        self._heard_s = self._loop.time()
        try:
            said = ServerFrame.FromString(frame)
        except DecodeError:
            self.abort()
            return
        if said.is_draining:
            self.retire()
        elif said.call_id:
            reply = self._forget(said.call_id)
            if reply is not None and not reply.done():
                reply.set_result(said)
        elif not self._greeted.done():
            self._greeted.set_result(None)

    def lost(self) -> None:
        """Fail what is on its way."""
        self.is_open, self._is_retired = False, True
        if not self._greeted.done():
            self._greeted.set_exception(OSError("the server did not greet back"))
            # Nobody may be waiting for it.
            self._greeted.exception()
        replies, self._replies = self._replies, {}
        for reply in replies.values():
            if not reply.done():
                reply.set_exception(_error(grpc.StatusCode.UNAVAILABLE, "the lane was closed"))
        self._ended(self)

    def _forget(self, call_id: int) -> asyncio.Future[ServerFrame] | None:
        reply = self._replies.pop(call_id, None)
        if self._is_retired and not self._replies:
            self.end()
        return reply

    def _expire(self, call_id: int, sent_s: float) -> None:
        reply = self._replies.get(call_id)
        if reply is None or reply.done():
            return
        reply.set_exception(_error(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"))
        self.give_up(call_id)
        if self._heard_s < sent_s:
            # Nothing came for as long as this call was waited for: gRPC's own channel finds out what is the matter.
            self.retire()


def _fits(metadata: Any) -> bool:
    """Text, and no longer than HTTP/2 would carry."""
    characters = 0
    for key, value in metadata or ():
        if not isinstance(value, str):
            return False
        characters += len(key) + len(value)
    return characters <= METADATA_CHARACTERS_MAX


def _error(code: grpc.StatusCode, details: str, trailing: Any = ()) -> grpc.aio.AioRpcError:
    metadata = grpc.aio.Metadata(*((item.key, item.value) for item in trailing))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), metadata, details=details)
