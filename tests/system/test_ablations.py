"""Services with one decision replaced do what their mode says, among real peers."""

import asyncio
from collections import Counter
from contextlib import contextmanager

import grpc

from bench.load.ablations.modes import MODES
from relaygr.behaviours.store import FileStore
from relaygr.client import RelayClient
from relaygr.domain.identity import UserKey
from relaygr.v1 import common_pb2, ranker_pb2, router_pb2, router_pb2_grpc
from services.trigger.arrival import LogHead, cut_at
from tests.system.beside import beside
from tests.system.world import (
    AT_RISK_MS,
    ITEMS,
    LIMITS,
    NO_RISK_MS,
    USERS,
    arrive_admitted,
    relay_admitted,
)

SHORT_MS = 150.0
"""A window whose ticket makes room soon when its rank went elsewhere."""


def commands(mode, service):
    return MODES[mode].commands[service]


def client_at(trigger, router):
    return RelayClient(trigger, router, arrive_timeout_ms=1000.0, rank_deadline_ms=5000.0)


def rank_in_full(store: FileStore, user: int, candidates: int) -> router_pb2.RouterServiceRankRequest:
    """What a caller without a trigger sends: the cut, so that the router can tell how long the history is."""
    head = store.head(UserKey("default", str(user)))
    return router_pb2.RouterServiceRankRequest(
        rank=ranker_pb2.RankRequest(
            user=str(user),
            request_id=f"{user}-{candidates}",
            history=common_pb2.History(cut=cut_at(LogHead(head.log_count, head.generation), LIMITS)),
            candidates=ranker_pb2.Candidates(count=candidates, item_ids=ITEMS[:candidates].astype("<i8").tobytes()),
            request_time_s=1_700_000_000,
        )
    )


def lengths(store: FileStore) -> dict[int, int]:
    return {user: store.head(UserKey("default", str(user))).log_count for user in range(USERS)}


async def test_least_loaded_sends_short_requests_past_the_instance_with_a_long_one(cluster, tmp_path):
    store = FileStore(cluster.describe()["store_dir"])
    by_length = sorted(lengths(store).items(), key=lambda pair: pair[1])
    short, long = by_length[0][0], by_length[-1][0]
    found = []
    with beside(cluster, tmp_path, "router", *commands("full", "router")) as address:
        async with grpc.aio.insecure_channel(address) as channel:
            router = router_pb2_grpc.RouterServiceStub(channel)
            for _ in range(10):
                # The choices are made before the first answer comes: round robin would send one short one to the long.
                requests = [rank_in_full(store, long, 256), *[rank_in_full(store, short, 1)] * 2]
                answers = await asyncio.gather(*(router.Rank(request, timeout=5.0) for request in requests))
                found.append([answer.rank.instance_id for answer in answers])
            idle = [(await router.Rank(rank_in_full(store, short, 1), timeout=5.0)).rank.instance_id for _ in range(6)]
            assert {answer.rank.tier for answer in answers} == {ranker_pb2.TIER_FULL}
    apart = [first != second == third for first, second, third in found]
    assert sum(apart) >= 8, found
    assert set(idle) == set(cluster.ranker_names), idle


async def test_random_placement_ranks_about_half_of_the_tickets_in_full(cluster, tmp_path):
    found = []
    with beside(cluster, tmp_path, "router", *commands("no_affinity", "router")) as address:
        async with client_at(cluster.addresses["trigger"], address) as client:
            for user in range(USERS):
                relay = await arrive_admitted(client, user, latest_ms=SHORT_MS)
                async with relay:
                    await asyncio.sleep(0.05)  # retrieval
                    ranking = await relay.rank(ITEMS[:8], request_time_s=1_700_000_000, verify=True)
                found.append((relay.arrived.instance_id, ranking))
    there = [ranking for named, ranking in found if ranking.instance_id == named]
    elsewhere = [ranking for named, ranking in found if ranking.instance_id != named]
    assert len(there) >= 8 and len(elsewhere) >= 8
    assert set(Counter(ranking.instance_id for ranking in elsewhere)) == set(cluster.ranker_names)
    assert {(one.tier, one.fallback, one.branch) for one in elsewhere} == {("FULL", "FOREIGN_TICKET", "REROUTED")}
    assert {one.branch for one in there} == {"TICKET"}
    assert sum(one.tier != "FULL" for one in there) >= len(there) - 1
    assert max(ranking.score_difference for _, ranking in found) <= 1e-5


@contextmanager
def ring_of(cluster, tmp_path):
    """A ring router and a trigger that asks it."""
    with beside(cluster, tmp_path / "router", "router", *commands("ring_hash", "router")) as router:
        trigger = ("-m", "services.trigger")
        with beside(cluster, tmp_path / "trigger", "trigger", *trigger, router=router) as address:
            yield address, router


async def resolved(address: str, users) -> list[str]:
    async with grpc.aio.insecure_channel(address) as channel:
        router = router_pb2_grpc.RouterServiceStub(channel)
        requests = [router_pb2.ResolveRequest(user=str(user)) for user in users]
        return [(await router.Resolve(request, timeout=5.0)).instance_id for request in requests]


async def test_by_ring_hash_both_halves_of_a_relay_meet_and_users_stay(cluster, tmp_path):
    users = range(16)
    with ring_of(cluster, tmp_path) as (trigger, router):
        async with client_at(trigger, router) as client:
            first = [await relay_admitted(client, user) for user in users]
            again = [await relay_admitted(client, user) for user in users]
        named = await resolved(router, users)
    by_slot = await resolved(cluster.addresses["router"], users)
    assert [one.instance_id for one in first] == [one.instance_id for one in again] == named
    assert set(named) == set(cluster.ranker_names)
    assert named != by_slot, "the ring and the slot map agree on every user"
    assert {one.branch for one in first + again} == {"TICKET"}
    assert "FOREIGN_TICKET" not in {one.fallback for one in first + again}
    assert sum(one.tier != "FULL" for one in first + again) >= 2 * len(users) - 1
    assert max(one.score_difference for one in first + again) <= 1e-5


async def test_without_a_trigger_whatever_arrives_is_admitted(cluster, tmp_path):
    async with client_at(cluster.addresses["trigger"], cluster.addresses["router"]) as client:
        async with await client.arrive(user=0, candidate_count=8, rank_budget_ms=NO_RISK_MS) as relay:
            assert relay.decision == "NOT_AT_RISK"
    with beside(cluster, tmp_path, "trigger", *commands("no_trigger", "trigger")) as address:
        async with client_at(address, cluster.addresses["router"]) as client:
            # Far more than the device holds, and half of them not at risk.
            relays = [
                await client.arrive(
                    user=number % USERS,
                    candidate_count=8,
                    rank_budget_ms=NO_RISK_MS if number % 2 else AT_RISK_MS,
                    rank_latest_ms=2000.0,
                )
                for number in range(2 * USERS)
            ]
            assert Counter((relay.decision, relay.reason) for relay in relays) == {("ADMITTED", "AT_RISK"): 2 * USERS}
            await asyncio.gather(*(relay.release() for relay in relays))
