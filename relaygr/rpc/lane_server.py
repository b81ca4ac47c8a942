"""Unary calls over one connection that stays open, on the server's side.

Each call that comes over a lane is served by the same wrapped handler as a call of gRPC, in a
task of its own, with its own deadline. The caller's word cancels it, as do its deadline and the
connection's end.

Source: design, section 5, invariants I3, I6; docs/decisions/0011-lanes.md.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import socket
import ssl
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from relaygr.rpc.lane_caller import REPLY_BYTES_MAX, REQUEST_BYTES_MAX
from relaygr.rpc.lane_context import LaneContext
from relaygr.rpc.lane_counts import SERVER, LaneCounts
from relaygr.rpc.lane_wire import TLS_SHUTDOWN_S, Framed
from relaygr.runtime.logs import next_step
from relaygr.security.caller import auth_context_of
from relaygr.v1.lane_pb2 import CallerFrame, LaneCall, LaneMetadata, OpenRequest, OpenResponse, ServerFrame
from relaygr.v1.lane_pb2_grpc import LaneServiceServicer

_log = logging.getLogger(__name__)

FRAME_BYTES_MAX = 2 * REQUEST_BYTES_MAX
"""A request and its metadata."""
LANES_MAX = 1024
ACCEPT_TURNS = 3
"""Of the event loop, from accepting a connection until its protocol hears of it."""
CLOSING_S = 0.5
"""For callers to go by themselves, and for what is still to be sent when lanes are closed."""
GREETING_S = 2.0
"""Whoever has not said the token by then is cut off."""


class LaneServer(LaneServiceServicer):
    """Every lane of one server.

    Args:
        calls_max: in progress over all lanes; further ones are refused with RESOURCE_EXHAUSTED.
        lanes_max: connections; further ones are closed at once.
        message_bytes_max: a larger request or reply is refused with RESOURCE_EXHAUSTED.
    """

    def __init__(self, calls_max: int, lanes_max: int = LANES_MAX, message_bytes_max: int = REPLY_BYTES_MAX) -> None:
        self.counts = LaneCounts(SERVER)
        self._calls_max, self._lanes_max = calls_max, lanes_max
        self._request_bytes_max = message_bytes_max
        self.reply_bytes_max = min(message_bytes_max, REPLY_BYTES_MAX)
        self._methods: dict[str, grpc.RpcMethodHandler] = {}
        self._lanes: set[_ServedLane] = set()
        self._listener: asyncio.Server | None = None
        self._port = 0
        self._calls = 0
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self.token = secrets.token_bytes(16)
        self.is_draining = False

    def serve(self, path: str, handler: grpc.RpcMethodHandler) -> None:
        """Offer a unary method; streaming ones are not carried."""
        if handler.unary_unary is not None:
            self._methods[path] = handler

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Listen; returns the port.

        Args:
            host: as in the server's address.
            port: 0 takes a free one.
            tls: what connections are made with; None: plain text.

        Raises:
            OSError: the address cannot be bound.
        """
        loop = asyncio.get_running_loop()
        secured: dict[str, Any] = {}
        if tls is not None:
            secured = {"ssl": tls, "ssl_handshake_timeout": GREETING_S, "ssl_shutdown_timeout": TLS_SHUTDOWN_S}
        if host == "::" and socket.has_dualstack_ipv6():
            # As gRPC does: one port for both families.
            both = socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=True)
            self._listener = await loop.create_server(lambda: _ServedLane(self), sock=both, **secured)
        else:
            self._listener = await loop.create_server(lambda: _ServedLane(self), host, port, **secured)
        self._port = int(self._listener.sockets[0].getsockname()[1])
        return self._port

    async def Open(self, request: OpenRequest, context: grpc.aio.ServicerContext) -> OpenResponse:
        """Where lanes are taken."""
        if self._listener is None or self.is_draining:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this server takes no lanes")
        return OpenResponse(port=self._port, token=self.token)

    def drain(self) -> None:
        """Ask callers to send no more; what they sent is answered."""
        self.is_draining = True
        loop = asyncio.get_running_loop()
        for listening in self._listener.sockets if self._listener is not None else ():
            # Accept no more. Closing at once would leak what was just accepted, which asyncio attaches to it later.
            loop.remove_reader(listening.fileno())
        for lane in tuple(self._lanes):
            lane.drain()

    async def stop(self, grace_s: float) -> None:
        """Drain, wait for calls in progress for so long, and end all lanes."""
        self.drain()
        for _ in range(ACCEPT_TURNS):
            # What was accepted a moment ago is turned away in one of these.
            await asyncio.sleep(0)
        if self._listener is not None:
            self._listener.close()
        try:
            async with asyncio.timeout(grace_s):
                await self._left()
        except TimeoutError:
            pass
        for lane in tuple(self._lanes):
            lane.end()
        try:
            async with asyncio.timeout(CLOSING_S):
                await self._is_empty.wait()
                await self._is_idle.wait()
        except TimeoutError:
            for lane in tuple(self._lanes):
                lane.abort()

    def opened(self, lane: _ServedLane) -> bool:
        """A connection has come; False when there are too many, or when it was accepted as the server stopped."""
        is_welcome = not self.is_draining and len(self._lanes) < self._lanes_max
        self._lanes.add(lane)
        self.counts.connections = len(self._lanes)
        self._is_empty.clear()
        return is_welcome

    def closed(self, lane: _ServedLane) -> None:
        """A connection has gone."""
        self._lanes.discard(lane)
        self.counts.connections = len(self._lanes)
        if not self._lanes:
            self._is_empty.set()

    def begin(self, call: LaneCall) -> grpc.RpcMethodHandler | ServerFrame:
        """Count a call in: who serves it, or why nobody does."""
        handler = self._methods.get(call.method)
        if handler is None:
            return _refusal(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        if len(call.request) > self._request_bytes_max:
            return _refusal(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"Received message larger than max ({len(call.request)} vs. {self._request_bytes_max})",
            )
        if self._calls >= self._calls_max:
            return _refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!")
        self._calls += 1
        self.counts.calls += 1
        self._is_idle.clear()
        return handler

    def ended(self) -> None:
        """A call that was counted in has ended."""
        self._calls -= 1
        if not self._calls:
            self._is_idle.set()

    async def _left(self) -> None:
        """No call is in progress, and callers have gone or had the time: what they sent before they heard has come."""
        while self._lanes:
            await self._is_idle.wait()
            try:
                async with asyncio.timeout(CLOSING_S):
                    await self._is_empty.wait()
            except TimeoutError:
                if self._is_idle.is_set():
                    return


class _ServedLane(Framed):
    """One connection and the calls that came over it."""

    def __init__(self, server: LaneServer) -> None:
        super().__init__(FRAME_BYTES_MAX)
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._is_greeted = False
        self._peer = ""
        self._auth_context: dict[str, list[bytes]] = {}
        """What TLS proved of the caller, the same for every call of the connection; empty on plain text."""

    def drain(self) -> None:
        """Ask for no more calls."""
        if self._is_greeted:
            self.send(ServerFrame(is_draining=True).SerializeToString())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Expect the greeting."""
        super().connection_made(transport)
        self._peer = str(transport.get_extra_info("peername"))
        if not self._server.opened(self):
            self.abort()
        self._loop.call_later(GREETING_S, self._must_be_greeted)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            self._auth_context = auth_context_of(tls)

    def heard(self, frame: bytes) -> None:
        """The greeting, a call, or the end of one."""
        try:
            said = CallerFrame.FromString(frame)
        except DecodeError:
            self.abort()
            return
        if not self._is_greeted:
            self._greet(said.greeting)
            return
        match said.WhichOneof("kind"):
            case "call":
                self._begin(said.call_id, said.call)
            case "cancel":
                task = self._tasks.get(said.call_id)
                if task is not None:
                    self._cancel(task)
            case _:
                self.abort()

    def lost(self) -> None:
        """Nobody waits any more."""
        self._server.closed(self)
        for task in self._tasks.values():
            self._cancel(task)

    def pause_writing(self) -> None:
        """A caller that does not read its replies is not read either."""
        super().pause_writing()
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        if self._transport is not None:
            self._transport.resume_reading()

    def _must_be_greeted(self) -> None:
        if not self._is_greeted:
            self.abort()

    def _greet(self, token: bytes) -> None:
        if not hmac.compare_digest(token, self._server.token):
            self.abort()
            return
        self._is_greeted = True
        self.send(ServerFrame().SerializeToString())
        if self._server.is_draining:
            self.drain()

    def _begin(self, call_id: int, call: LaneCall) -> None:
        if not call_id or call_id in self._tasks:
            # Its replies could not be told apart.
            self.abort()
            return
        handler = self._server.begin(call)
        if isinstance(handler, ServerFrame):
            self._reply(call_id, handler)
            return
        context = LaneContext(self._peer, call, self._auth_context)
        task = self._loop.create_task(
            _served(
                handler,
                context,
                call.request,
                self._server.reply_bytes_max,
                lambda reply: self._ended(call_id, reply),
            )
        )
        self._tasks[call_id] = task
        context.begun(task)

    def _ended(self, call_id: int, reply: ServerFrame | None) -> None:
        del self._tasks[call_id]
        self._server.ended()
        if reply is not None:
            self._reply(call_id, reply)

    def _cancel(self, task: asyncio.Task[None]) -> None:
        # Not at once: a task that is cancelled before its first step runs nothing, and would not be counted out.
        self._loop.call_soon(task.cancel)

    def _reply(self, call_id: int, reply: ServerFrame) -> None:
        reply.call_id = call_id
        self.send(reply.SerializeToString())


async def _served(
    handler: grpc.RpcMethodHandler,
    context: LaneContext,
    request: bytes,
    reply_bytes_max: int,
    ended: Callable[[ServerFrame | None], None],
) -> None:
    """Run a handler as grpc.aio would; `ended` hears the reply, None when nobody waits for one."""
    reply = None
    try:
        response = await handler.unary_unary(request, context)
        if context.status is not grpc.StatusCode.OK:
            reply = _refusal(context.status, context.details(), context.trailing_metadata())
        elif len(raw := handler.response_serializer(response)) > reply_bytes_max:
            details = f"Sent message larger than max ({len(raw)} vs. {reply_bytes_max})"
            reply = _refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, details)
        else:
            reply = ServerFrame(response=raw)
    except grpc.aio.AbortError:
        reply = _refusal(context.status, context.details(), context.trailing_metadata())
    except asyncio.CancelledError:
        if not context.is_late:
            raise
        reply = _refusal(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
    except Exception as error:
        _log.error("a call over a lane failed", exc_info=error, extra=next_step("report it with the traceback"))
        reply = _refusal(grpc.StatusCode.UNKNOWN, f"Unexpected {type(error)}")
    finally:
        context.ended()
        ended(reply)


def _refusal(code: grpc.StatusCode, details: str, trailing: Any = ()) -> ServerFrame:
    metadata = [LaneMetadata(key=key, value=value) for key, value in trailing]
    return ServerFrame(code=code.value[0], details=details, trailing_metadata=metadata)
