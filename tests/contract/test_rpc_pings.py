"""A connection that only pings stays: lanes carry the calls, so gRPC's own connection is idle for minutes."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from relaygr.rpc import server as rpc_server
from relaygr.rpc.channel import channel_options
from relaygr.rpc.server import RpcServer
from relaygr.telemetry import Telemetry

PING_MS = 1_000
"""GRPC sends none sooner."""
PINGS_S = 4.5
"""The server of gRPC ends a connection at the third ping that comes too soon."""


async def test_pings_at_the_pace_that_the_server_allows_do_not_end_an_idle_connection(monkeypatch):
    monkeypatch.setattr(rpc_server, "PING_INTERVAL_MIN_MS", PING_MS // 2)
    telemetry, _ = Telemetry.for_tests()
    server = RpcServer(service_name="s", address="127.0.0.1:0", telemetry=telemetry)
    try:
        options = dict(channel_options()) | {"grpc.keepalive_time_ms": PING_MS}
        async with grpc.aio.insecure_channel(
            f"127.0.0.1:{await server.start()}", options=list(options.items())
        ) as channel:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5.0)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(PINGS_S):
                    await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
    finally:
        await server.stop(0)
        telemetry.shutdown()
