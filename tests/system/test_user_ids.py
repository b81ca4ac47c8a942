"""Nothing that is written down says who the user is: neither spans nor logs."""

import asyncio
import uuid

import grpc
import pytest

from relaygr.errors import RelayError
from relaygr.telemetry import Telemetry
from relaygr.v1 import ranker_pb2, router_pb2, router_pb2_grpc
from tests.system.signal_traffic import history
from tests.system.world import AT_RISK_MS, CANDIDATES, ITEMS, LATEST_MS, client_of, until


async def relayed(client, user: str) -> str:
    """An admitted request; its trace."""
    found = []

    async def admitted() -> bool:
        relay = await client.arrive(
            user=user,
            behaviours=history(200),
            candidate_count=CANDIDATES,
            rank_budget_ms=AT_RISK_MS,
            rank_latest_ms=LATEST_MS,
        )
        async with relay:
            await asyncio.sleep(0.1)
            found.append((await relay.rank(ITEMS[:CANDIDATES])).trace_id)
        return relay.admitted

    await until(admitted, "a request is admitted")
    return found[-1]


async def refused(cluster, user: str) -> None:
    """A wrong request, whose error speaks of it."""
    async with grpc.aio.insecure_channel(cluster.addresses["router"]) as channel:
        rank = ranker_pb2.RankRequest(user=user, request_id="x" * 10_000)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await router_pb2_grpc.RouterServiceStub(channel).Rank(
                router_pb2.RouterServiceRankRequest(rank=rank), timeout=5
            )
    assert user not in str(error.value.details())


async def test_no_span_and_no_line_of_a_log_contains_the_users_id(cluster):
    user = f"somebody-{uuid.uuid4().hex}"
    telemetry = Telemetry.setup("relaygr-client", "client", cluster.otlp_endpoint, b"test")
    try:
        async with client_of(cluster, telemetry) as client:
            trace_id = await relayed(client, user)
            await refused(cluster, user)
            await client.forget(user)
            with pytest.raises(RelayError):
                await client.arrive(user=user, candidate_count=1_000_000)
    finally:
        await asyncio.to_thread(telemetry.shutdown)
    run_dir = cluster.traces_dir.parent
    trace = cluster.traces_dir / f"{trace_id}.json"

    async def is_whole() -> bool:
        # Whether its psi found room in DRAM depends on who was here before.
        return trace.exists() and "PrepareStore" in trace.read_text()

    await until(is_whole, "the relay's trace is written")
    files = [path for path in run_dir.rglob("*") if path.is_file() and "etcd" not in path.parts]
    assert trace in files and any(path.suffix == ".log" and path.stat().st_size for path in files)
    assert not [path.name for path in files if user.encode() in path.read_bytes()]
