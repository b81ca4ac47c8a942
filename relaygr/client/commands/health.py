"""`relaygr health`: what each process says of itself."""

from __future__ import annotations

import argparse
import asyncio

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from relaygr.client.commands.cluster import NOT_RUNNING, Cluster
from relaygr.client.commands.report import CommandError, Report, table
from relaygr.rpc.channel import ChannelPool
from relaygr.security.identity import Role
from relaygr.telemetry import Telemetry

TIMEOUT_S = 1.0
SERVING = "SERVING"


async def run(arguments: argparse.Namespace, cluster: Cluster) -> Report:
    """A row for each process; fails when one does not serve."""
    services = [("trigger", cluster.trigger), ("router", cluster.router), ("expander", cluster.expander)]
    services[2:2] = [("ranker", address) for address in cluster.rankers]
    telemetry = Telemetry.setup("relaygr-cli", "relaygr-cli", None, b"relaygr-cli")
    pool = cluster.channels(telemetry)
    asked = [(name, address, grpc_health(pool, address, Role(name))) for name, address in services if address]
    if cluster.etcd:
        asked.append(("etcd", cluster.etcd, listening(cluster.etcd)))
    if not asked:
        raise CommandError(NOT_RUNNING)
    try:
        states = await asyncio.gather(*(each for _, _, each in asked))
    finally:
        await pool.close()
        telemetry.shutdown()
    rows = [(name, address, state) for (name, address, _), state in zip(asked, states, strict=True)]
    is_healthy = all(state == SERVING for state in states)
    hint = "" if is_healthy else "\n\nwhat does not serve can be started anew with: make up"
    return Report(table(("process", "address", "state"), rows) + hint, 0 if is_healthy else 1)


async def grpc_health(pool: ChannelPool, address: str, role: Role) -> str:
    """The standard health check's answer, or the status code that came instead."""
    try:
        stub = pool.stub(health_pb2_grpc.HealthStub, address, role)
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


async def listening(address: str) -> str:
    """SERVING when something takes connections there."""
    host, _, port = address.removeprefix("http://").rpartition(":")
    try:
        async with asyncio.timeout(TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, int(port))
    except (OSError, ValueError, TimeoutError):
        return "UNAVAILABLE"
    writer.close()
    return SERVING
