"""Health, reflection, listening and stopping of the shared server."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from relaygr.rpc.channel import ChannelPool
from relaygr.rpc.server import RpcServer, serve_until_signal
from relaygr.v1 import ranker_pb2
from tests.contract.rpc_world import World, answer, world

__all__ = ["world"]


async def test_health_watch_sees_not_serving(world: World) -> None:
    channel = world.pool.get(await world.ranker(answer))
    stub = health_pb2_grpc.HealthStub(channel)
    for name in ("", "relaygr.v1.RankerService"):
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=name))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        world.servers[0].set_serving(False)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        world.servers[0].set_serving(True)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
    assert not world.spans.get_finished_spans()


async def test_last_set_serving_wins(world: World) -> None:
    stub = health_pb2_grpc.HealthStub(world.pool.get(await world.ranker(answer)))
    server = world.servers[0]
    for serving in (False, True, False, True):
        server.set_serving(serving)
    await server.set_serving(False)
    status = (await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)).status
    assert status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_reflection_lists_the_service_and_health(world: World) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(world.pool.get(await world.ranker(answer)))
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    listed = {service.name for service in (await call.read()).list_services_response.service}
    call.cancel()
    assert {"relaygr.v1.RankerService", "grpc.health.v1.Health"} <= listed


async def test_port_in_use_is_an_error_not_a_share(world: World) -> None:
    address = await world.ranker(answer)
    second = RpcServer(service_name="second", address=address, telemetry=world.telemetry)
    with pytest.raises(RuntimeError):
        await second.start()
    await second.stop(0)


async def test_calls_beyond_the_maximum_are_refused(world: World) -> None:
    began, release = asyncio.Event(), asyncio.Event()

    async def rank(request: Any, context: Any) -> Any:
        began.set()
        await release.wait()
        return ranker_pb2.RankResponse()

    # The question where lanes are would be a call too many.
    world.pool = ChannelPool(world.telemetry, has_lanes=False)
    stub = world.to_ranker(await world.ranker(rank, concurrent_rpcs_max=1))
    first = stub.Rank(ranker_pb2.RankRequest(), timeout=5)
    await began.wait()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Rank(ranker_pb2.RankRequest(), timeout=5)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    release.set()
    await first


async def test_stop_lets_calls_in_progress_end_and_does_not_wait_for_watchers(world: World) -> None:
    began, release = asyncio.Event(), asyncio.Event()

    async def rank(request: Any, context: Any) -> Any:
        began.set()
        await release.wait()
        return ranker_pb2.RankResponse(instance_id="a")

    address = await world.ranker(rank)
    watch = health_pb2_grpc.HealthStub(world.pool.get(address)).Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    call = world.to_ranker(address).Rank(ranker_pb2.RankRequest(), timeout=20)
    await began.wait()
    stopping = asyncio.create_task(world.servers[0].stop(30))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert not stopping.done()
    release.set()
    assert (await call).instance_id == "a"
    assert await watch.read() is grpc.aio.EOF
    await asyncio.wait_for(stopping, 5)


async def test_signal_turns_not_serving_then_leaves_then_stops(world: World) -> None:
    channel = world.pool.get(await world.ranker(answer))
    server = world.servers[0]
    health = health_pb2_grpc.HealthStub(channel)
    seen: list[int] = []

    async def leave() -> None:
        # Still served while leaving, but not advertised any more.
        seen.append((await health.Check(health_pb2.HealthCheckRequest(), timeout=5)).status)

    serving = asyncio.create_task(serve_until_signal(server, leave))
    await asyncio.sleep(0)
    signal.raise_signal(signal.SIGTERM)
    await asyncio.wait_for(serving, 10)
    assert seen == [health_pb2.HealthCheckResponse.NOT_SERVING]
    with pytest.raises(grpc.aio.AioRpcError):
        await health.Check(health_pb2.HealthCheckRequest(), timeout=1)


async def test_second_signal_stops_at_once(world: World) -> None:
    await world.ranker(answer)
    leaving = asyncio.Event()

    async def leave() -> None:
        leaving.set()
        await asyncio.Event().wait()

    serving = asyncio.create_task(serve_until_signal(world.servers[0], leave, on_stop_timeout_s=50))
    await asyncio.sleep(0)
    signal.raise_signal(signal.SIGINT)
    await asyncio.wait_for(leaving.wait(), 5)
    signal.raise_signal(signal.SIGINT)
    await asyncio.wait_for(serving, 5)


async def test_stop_goes_on_when_leaving_fails_or_hangs(world: World) -> None:
    async def fail() -> None:
        raise OSError("registry gone")

    async def hang() -> None:
        await asyncio.Event().wait()

    for leave in (fail, hang):
        await world.ranker(answer)
        serving = asyncio.create_task(serve_until_signal(world.servers[-1], leave, on_stop_timeout_s=0.05))
        await asyncio.sleep(0)
        signal.raise_signal(signal.SIGTERM)
        await asyncio.wait_for(serving, 5)
