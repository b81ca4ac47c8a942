"""`python -m services.trigger` as a process: starts without etcd, is a member where there is one, leaves in order."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from relaygr.registry import Registry
from relaygr.registry.keys import TRIGGERS_PREFIX, trigger_key
from relaygr.registry.server import EmbeddedEtcd
from relaygr.rpc.server import RpcServer
from relaygr.rpc.tickets import decode_ticket
from relaygr.telemetry import Telemetry
from relaygr.testing.fake_router import FakeRouter
from relaygr.v1.common_pb2 import Cut, History
from relaygr.v1.router_pb2_grpc import add_RouterServiceServicer_to_server
from relaygr.v1.trigger_pb2 import ArriveRequest
from relaygr.v1.trigger_pb2_grpc import TriggerServiceStub

ENV = {"RELAYGR_TRIGGER_TICKET_KEY": "00" * 16, "RELAYGR_TRIGGER_TRIGGER_ID": "t-1"}


@asynccontextmanager
async def process(**variables):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RELAYGR_")}
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.trigger", env={**inherited, **ENV, **variables}, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.communicate()


async def address_of(started):
    async with asyncio.timeout(30):
        while line := (await started.stderr.readline()).decode():
            if "serves on" in line:
                return line.rsplit("serves on ", 1)[1].strip().strip('"')
    raise AssertionError("the trigger ended before it served")


async def is_serving(address):
    async with grpc.aio.insecure_channel(address) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service="relaygr.v1.TriggerService"), timeout=5
        )
    return answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("registry", ["", "127.0.0.1:1"])
async def test_starts_and_stops_without_etcd(registry):
    async with process(RELAYGR_TRIGGER_REGISTRY=registry) as started:
        assert await is_serving(await address_of(started))
        started.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(started.wait(), 20) == 0


async def test_is_a_member_from_start_to_sigterm(tmp_path):
    etcd = EmbeddedEtcd()
    endpoint = await asyncio.to_thread(etcd.start, tmp_path / "etcd")
    registry = Registry((endpoint.removeprefix("http://"),))
    try:
        async with process(RELAYGR_TRIGGER_REGISTRY=endpoint.removeprefix("http://")) as started:
            address = await address_of(started)
            async with asyncio.timeout(10):
                while (value := await registry.get(trigger_key("t-1"))) is None:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            assert json.loads(value) == {"trigger_id": "t-1", "address": address}
            started.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(started.wait(), 20) == 0
        assert (await registry.get_prefix(TRIGGERS_PREFIX)).items == ()
    finally:
        await registry.close()
        await asyncio.to_thread(etcd.stop)


async def test_tickets_carry_the_id_that_the_trigger_is_a_member_by():
    telemetry, _ = Telemetry.for_tests("router")
    router, fake = RpcServer(service_name="router", address="127.0.0.1:0", telemetry=telemetry), FakeRouter()
    router.add(add_RouterServiceServicer_to_server, fake, "relaygr.v1.RouterService")
    address = f"127.0.0.1:{await router.start()}"
    try:
        async with process(RELAYGR_TRIGGER_ROUTER=address, RELAYGR_TRIGGER_RANK_BUDGET_MS="5") as started:
            async with grpc.aio.insecure_channel(await address_of(started)) as channel:
                history = History(inline=b"opaque", cut=Cut(behaviour_count=900, digest=bytes(16)))
                request = ArriveRequest(user="u1", history=history)
                answer = await TriggerServiceStub(channel).Arrive(request, timeout=10)
            assert decode_ticket(answer.ticket, bytes(16)).trigger_id == fake.resolves[0].trigger_id == "t-1"
            started.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(started.wait(), 20) == 0
    finally:
        await router.stop(0)
        telemetry.shutdown()


async def test_unknown_variable_stops_the_start_with_its_name():
    async with process(RELAYGR_TRIGGER_FOOTPRINT="0.5") as started:
        _, errors = await asyncio.wait_for(started.communicate(), 30)
        assert started.returncode != 0 and b"RELAYGR_TRIGGER_FOOTPRINT" in errors
