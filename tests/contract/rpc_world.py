"""Real servers and channels on loopback, for the tests of the shared rpc package."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from relaygr.rpc.channel import ChannelPool
from relaygr.rpc.deadline import child_timeout_s, remaining_ns
from relaygr.rpc.server import RpcServer
from relaygr.rpc.status import error_of
from relaygr.telemetry import Telemetry
from relaygr.v1 import ranker_pb2, ranker_pb2_grpc, router_pb2, router_pb2_grpc

RANKER = "relaygr.v1.RankerService"
ROUTER = "relaygr.v1.RouterService"
RANK = f"{RANKER}/Rank"
ROUTE = f"{ROUTER}/Rank"

RankFn = Callable[[Any, Any], Awaitable[Any]]


class Ranker(ranker_pb2_grpc.RankerServiceServicer):
    """Ranks by a function."""

    def __init__(self, rank: RankFn) -> None:
        self._rank = rank

    async def Rank(self, request: Any, context: Any) -> Any:
        return await self._rank(request, context)


class Router(router_pb2_grpc.RouterServiceServicer):
    """Forwards like the real one: deadline less a margin, errors mapped and raised again."""

    def __init__(self, pool: ChannelPool, ranker: str, margin_ns: int) -> None:
        self._stub = ranker_pb2_grpc.RankerServiceStub(pool.get(ranker))
        self._ranker = ranker
        self._margin_ns = margin_ns

    async def Rank(self, request: Any, context: Any) -> Any:
        timeout_s = child_timeout_s(remaining_ns(context), self._margin_ns)
        try:
            return router_pb2.RouterServiceRankResponse(rank=await self._stub.Rank(request.rank, timeout=timeout_s))
        except grpc.aio.AioRpcError as error:
            raise error_of(error, self._ranker) from error


class World:
    """A telemetry, a pool and the servers started in a test."""

    def __init__(self, telemetry: Telemetry | None = None) -> None:
        made, self.spans = Telemetry.for_tests()
        self.telemetry = telemetry or made
        self.pool = ChannelPool(self.telemetry)
        self.servers: list[RpcServer] = []

    async def ranker(self, rank: RankFn, **options: Any) -> str:
        """Start a ranker; its address."""
        add = ranker_pb2_grpc.add_RankerServiceServicer_to_server
        return await self._serve(add, Ranker(rank), RANKER, **options)

    async def router(self, ranker: str, margin_ns: int = 0) -> str:
        """Start a router before a ranker; its address."""
        add = router_pb2_grpc.add_RouterServiceServicer_to_server
        return await self._serve(add, Router(self.pool, ranker, margin_ns), ROUTER)

    async def _serve(self, add: Any, servicer: Any, name: str, **options: Any) -> str:
        server = RpcServer(service_name=name, address="127.0.0.1:0", telemetry=self.telemetry, **options)
        server.add(add, servicer, name)
        port = await server.start()
        self.servers.append(server)
        return f"127.0.0.1:{port}"

    def to_ranker(self, address: str) -> Any:
        """A stub."""
        return ranker_pb2_grpc.RankerServiceStub(self.pool.get(address))

    def to_router(self, address: str) -> Any:
        """A stub."""
        return router_pb2_grpc.RouterServiceStub(self.pool.get(address))


@asynccontextmanager
async def make_world(telemetry: Telemetry | None = None) -> AsyncIterator[World]:
    """A world that ends its servers and channels."""
    made = World(telemetry)
    try:
        yield made
    finally:
        await made.pool.close()
        for server in made.servers:
            await server.stop(0)
        made.telemetry.shutdown()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with make_world() as made:
        yield made


async def answer(request: Any, context: Any) -> Any:
    return ranker_pb2.RankResponse(instance_id="a")


def raising(error: BaseException) -> RankFn:
    async def rank(request: Any, context: Any) -> Any:
        raise error

    return rank


async def call_failing(stub_call: Any, request: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub_call(request, timeout=5)
    return caught.value


def named(spans: InMemorySpanExporter, name: str, kind: SpanKind) -> Any:
    """The one finished span of a name and kind."""
    (found,) = [span for span in spans.get_finished_spans() if span.name == name and span.kind is kind]
    return found


async def ended(spans: InMemorySpanExporter, name: str, kind: SpanKind) -> Any:
    """The same, waited for."""
    async with asyncio.timeout(5):
        while not any(span.name == name and span.kind is kind for span in spans.get_finished_spans()):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    return named(spans, name, kind)
