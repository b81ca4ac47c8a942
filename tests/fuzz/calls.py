"""Unary calls as inputs: straight to a handler as a server has it, and now and then over gRPC and over a lane.

An input is a line that says which way and which method, and then the request's bytes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message

from relaygr.rpc.channel import ChannelPool
from relaygr.rpc.lane_context import LaneContext
from relaygr.rpc.server import RpcServer
from relaygr.telemetry import Telemetry
from relaygr.v1.lane_pb2 import LaneCall
from tests.fuzz import messages
from tests.fuzz.subject import Subject, choose
from tests.fuzz.verdict import ACCEPTED, Verdict, crash, rejected, without_field

DIRECT, GRPC, LANE = "direct", "grpc", "lane"
OVER_THE_WIRE = 0.01
"""Of the inputs, for gRPC and for lanes each: a hundred times the work of a handler."""
TIMEOUT_NS = 1_000_000_000
HONEST_TIMEOUT_NS = 20_000_000_000
BUGS = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
UNPARSED = "cannot be parsed"


@dataclass(frozen=True, slots=True)
class Method:
    """A method: its request, and what an honest one is like."""

    request: Any
    example: Callable[[Random], Message]
    weight: float = 1.0


class Calls(Subject):
    """The unary methods of a server's services."""

    def __init__(self, methods: Mapping[str, Method], key: bytes) -> None:
        self._methods = dict(methods)
        self._key = key
        self._handlers: dict[str, Any] = {}
        self._ways: dict[str, Any] = {}
        self._pools: list[ChannelPool] = []
        self._timeout_ns = TIMEOUT_NS

    async def serve(self, server: RpcServer, telemetry: Telemetry) -> None:
        """Listen, for the share that comes over the wire."""
        address = f"127.0.0.1:{await server.start()}"
        self._handlers = server._lanes._methods
        for way, has_lanes in ((GRPC, False), (LANE, True)):
            pool = ChannelPool(telemetry, has_lanes=has_lanes)
            self._pools.append(pool)
            self._ways[way] = pool.get(address)

    async def close(self) -> None:
        for pool in self._pools:
            await pool.close()

    def draw(self, random: Random) -> bytes:
        paths = list(self._methods)
        path = random.choices(paths, [self._methods[one].weight for one in paths])[0]
        way = choose(random, (1 - 2 * OVER_THE_WIRE, DIRECT), (OVER_THE_WIRE, GRPC), (OVER_THE_WIRE, LANE))
        return f"{way} {path}\n".encode() + drawn(random, self._methods[path], self._key)

    async def give(self, data: bytes) -> Verdict:
        way, path, request = _parts(data)
        method = self._methods.get(path)
        if method is None:
            return rejected("no such method")
        if way == DIRECT:
            return await self._give_directly(path, method, request)
        try:
            await self._ways[way].unary_unary(path, _same, _same)(request, timeout=TIMEOUT_NS / 1e9)
        except grpc.aio.AioRpcError as error:
            return judged(method.request, error.code(), error.details() or "")
        return ACCEPTED

    async def _give_directly(self, path: str, method: Method, request: bytes) -> Verdict:
        handler = self._handlers[path]
        context: Any = LaneContext("fuzz", LaneCall(timeout_ns=self._timeout_ns))
        try:
            response = await handler.unary_unary(request, context)
        except grpc.aio.AbortError:
            return judged(method.request, context.code(), context.details())
        handler.response_serializer(response)
        self.answered(path, request, response)
        return ACCEPTED

    def answered(self, path: str, request: bytes, response: Any) -> None:
        """A handler gave this answer."""

    def smaller(self, data: bytes) -> Iterator[bytes]:
        head, _, request = data.partition(b"\n")
        method = self._methods.get(_parts(data)[1])
        if method is not None:
            try:
                parsed = method.request.FromString(request)
            except DecodeError:
                pass
            else:
                yield from (head + b"\n" + one.SerializeToString() for one in messages.smaller(parsed))
        yield from (head + b"\n" + one for one in super().smaller(request))

    async def still_serves(self) -> str:
        random = Random(1)
        self._timeout_ns = HONEST_TIMEOUT_NS
        try:
            for path, method in self._methods.items():
                verdict = await self._give_directly(path, method, method.example(random).SerializeToString())
                if verdict is not ACCEPTED:
                    return f"{path}: {verdict.kind.value} {verdict.detail}"
        finally:
            self._timeout_ns = TIMEOUT_NS
        return ""


def drawn(random: Random, method: Method, key: bytes) -> bytes:
    """A request: an honest one, one with something wrong, or anything."""
    kind = choose(random, (20, "honest"), (52, "changed"), (4, "merged"), (12, "bytes"), (8, "filled"), (4, "random"))
    if kind == "random":
        return random.randbytes(random.randrange(200))
    if kind == "filled":
        return messages.filled(random, method.request()).SerializeToString()
    example = method.example(random)
    if kind == "merged":
        example.MergeFrom(method.example(random))
    if kind == "changed":
        for _ in range(random.choice((1, 1, 1, 2, 3, 6))):
            messages.changed(random, example, key)
    written = example.SerializeToString()
    if kind == "bytes":
        written = messages.mutated_bytes(random, written, method.example(random).SerializeToString())
    return written


def judged(request: Any, code: grpc.StatusCode, details: str) -> Verdict:
    """What a status says; a refused request must name the field."""
    if code in BUGS:
        return crash(f"{code.name}: {details}")
    if code is not grpc.StatusCode.INVALID_ARGUMENT:
        return rejected(f"{code.name}: {details}") if details else without_field(f"{code.name} without a reason")
    field, separator, problem = details.partition(": ")
    if not separator or not problem:
        return without_field(f"{request.DESCRIPTOR.name} {details!r}")
    if field == "request" and problem == UNPARSED:
        return rejected(details)
    if not any(messages.has_field(one, field) for one in _spoken(request)):
        return without_field(f"{request.DESCRIPTOR.name} has no {field}")
    return rejected(details)


def _spoken(request: Any) -> list[Any]:
    """The request, and the one that it does nothing but wrap: a router refuses a rank as a ranker would."""
    fields = request.DESCRIPTOR.fields
    wrapped = fields[0].message_type if len(fields) == 1 else None
    return [request] if wrapped is None else [request, wrapped._concrete_class]


def _parts(data: bytes) -> tuple[str, str, bytes]:
    head, _, request = data.partition(b"\n")
    way, _, path = head.decode("ascii", "replace").partition(" ")
    return (way if way in (GRPC, LANE) else DIRECT), path, request


def _same(raw: bytes) -> bytes:
    return raw


Close = Callable[[], Awaitable[None]]
