"""Deadlines and cancellation over real hops."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from opentelemetry.trace import SpanKind

from relaygr.errors import DeadlineTooShort
from relaygr.rpc.deadline import remaining_ns
from relaygr.rpc.status import error_of
from relaygr.telemetry import names
from relaygr.v1 import ranker_pb2, router_pb2
from tests.contract.rpc_world import RANK, World, answer, call_failing, named, world

__all__ = ["world"]


async def test_deadline_shrinks_over_two_hops(world: World) -> None:
    seen: list[int] = []

    async def rank(request: Any, context: Any) -> Any:
        seen.append(remaining_ns(context))
        return ranker_pb2.RankResponse()

    router = await world.router(await world.ranker(rank), margin_ns=200_000_000)
    await world.to_router(router).Rank(router_pb2.RouterServiceRankRequest(), timeout=2.0)
    # gRPC rounds a timeout up by at most one per cent on the wire.
    assert 1_000_000_000 < seen[0] <= 1_840_000_000


async def test_callee_ends_when_the_callers_deadline_does(world: World) -> None:
    ended = asyncio.Event()

    async def rank(request: Any, context: Any) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    router = await world.router(await world.ranker(rank))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await world.to_router(router).Rank(router_pb2.RouterServiceRankRequest(), timeout=0.1)
    assert isinstance(error_of(caught.value, router), DeadlineTooShort)
    await asyncio.wait_for(ended.wait(), 5)


async def test_too_short_a_deadline_is_refused_before_the_next_hop(world: World) -> None:
    router = await world.router(await world.ranker(answer), margin_ns=60_000_000_000)
    error = error_of(await call_failing(world.to_router(router).Rank, router_pb2.RouterServiceRankRequest()), router)
    assert isinstance(error, DeadlineTooShort) and error.is_definite
    assert not [span for span in world.spans.get_finished_spans() if span.name == RANK]


async def test_call_without_deadline_gets_the_servers_default(world: World) -> None:
    seen: list[int] = []

    async def rank(request: Any, context: Any) -> Any:
        seen.append(remaining_ns(context))
        await asyncio.sleep(0.02)
        seen.append(remaining_ns(context))
        return ranker_pb2.RankResponse()

    ranker = await world.ranker(rank, default_deadline_ns=1_000_000_000)
    await world.to_ranker(ranker).Rank(ranker_pb2.RankRequest())
    assert 900_000_000 < seen[0] <= 1_000_000_000
    assert seen[1] <= seen[0] - 20_000_000
    remaining_ms = named(world.spans, RANK, SpanKind.SERVER).attributes[names.ATTR_DEADLINE_REMAINING_MS]
    assert 900 < remaining_ms <= 1000


async def test_cancelled_caller_cancels_the_callee_over_two_hops(world: World) -> None:
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def rank(request: Any, context: Any) -> Any:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    router = await world.router(await world.ranker(rank))

    async def ask() -> Any:
        return await world.to_router(router).Rank(router_pb2.RouterServiceRankRequest(), timeout=10)

    asking = asyncio.create_task(ask())
    await began.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await asyncio.wait_for(cancelled.wait(), 5)
