"""Psi in a remote pool: any instance ranks on what another one made, and pays for the fetch."""

import asyncio
import json
from dataclasses import replace

import grpc
import pytest

from bench.load.ablations import pool_wire as wire
from bench.load.ablations.modes import MODES
from demo.cluster import Cluster, describe_ranker
from demo.processes import Supervisor
from tests.system.world import ITEMS, USERS, arrive_admitted, client_of, small_plan, until


@pytest.fixture(scope="module")
def pooled(tmp_path_factory):
    plan = small_plan(tmp_path_factory.mktemp("pooled"))
    mode = MODES["remote_pool"]
    plan = replace(plan, commands=mode.commands, without=("console", *mode.without), extra=mode.extra)
    with Supervisor(plan.run_dir / "logs") as supervisor:
        cluster = Cluster(plan, supervisor)
        cluster.start()
        yield cluster


async def counters_of(cluster) -> dict[str, int]:
    async with grpc.aio.insecure_channel(cluster.addresses["expander"]) as channel:
        return json.loads(await channel.unary_unary(wire.path_of("Counters"))(b"", timeout=2.0))


async def relayed(client, users, *, wait_s: float = 0.1):
    """Instance that produced, and the ranking; one request after the other."""
    found = []
    for user in users:
        relay = await arrive_admitted(client, user)
        async with relay:
            await asyncio.sleep(wait_s)
            ranking = await relay.rank(ITEMS[:16], request_time_s=1_700_000_000, verify=True)
        found.append((relay.arrived.instance_id, ranking))
    return found


async def test_a_rank_elsewhere_than_its_pre_infer_is_on_psi_fetched_from_the_pool(pooled):
    async with client_of(pooled) as client:
        before = await counters_of(pooled)
        found = await relayed(client, range(16))
        after = await counters_of(pooled)
        again = await relayed(client, range(16))
        last = await counters_of(pooled)
    on_psi = [(named, one) for named, one in found if one.psi_tokens]
    assert len(on_psi) >= 15, [(named, one.instance_id, one.tier, one.fallback) for named, one in found]
    assert sum(named != one.instance_id for named, one in on_psi) >= 4
    assert max(one.score_difference for _, one in found + again) <= 1e-5
    assert {one.branch for _, one in found} == {"TICKET"}
    # Each is stored once and fetched once; whoever returns is fetched again and not stored again.
    assert after["stores"] - before.get("stores", 0) >= len(on_psi)
    assert after["fetches"] - before.get("fetches", 0) == len(on_psi)
    assert last["fetches"] - after["fetches"] == sum(one.psi_tokens > 0 for _, one in again) >= 15
    assert last["stores"] == after["stores"]


async def test_nothing_stays_on_the_devices(pooled):
    async with client_of(pooled) as client:
        await relayed(client, range(16, 20))

    async def are_empty() -> bool:
        seen = [describe_ranker(pooled.addresses[name]) for name in pooled.ranker_names]
        return all(one.resident_entries == one.load.device_used_bytes == one.open_tickets == 0 for one in seen)

    await until(are_empty, "no psi is on a device")
    assert (await counters_of(pooled))["entries"] >= 4


async def test_many_relays_at_once_are_answered_with_the_scores_of_full_inference(pooled):
    async def once(client, user):
        relay = await client.arrive(user=user, candidate_count=16, rank_budget_ms=0.001, rank_latest_ms=500.0)
        async with relay:
            await asyncio.sleep(0.02)
            return await relay.rank(ITEMS[:16], request_time_s=1_700_000_000, verify=True)

    async with client_of(pooled) as client:
        rankings = await asyncio.gather(*(once(client, user) for user in [*range(USERS), *range(USERS)]))
    assert max(one.score_difference for one in rankings) <= 1e-5
    # As many as the devices hold at a time, at the least; the others were declined or came before their psi.
    assert sum(one.psi_tokens > 0 for one in rankings) >= 10


async def test_a_forgotten_user_is_gone_from_the_pool(pooled):
    async with client_of(pooled) as client:
        await relayed(client, [21])
        forgotten = await client.forget(user=21)
        assert not forgotten.unreached and forgotten.dram_entries == 1
        ranking = (await relayed(client, [22]))[0][1]
    assert ranking.score_difference <= 1e-5
