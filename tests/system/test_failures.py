"""kill -9 under load: every request is answered, scores stay those of full inference."""

import asyncio
from contextlib import asynccontextmanager

import numpy as np

from relaygr.client import Ranking
from relaygr.errors import RelayError
from tests.system.world import SCORE_DIFFERENCE_MOST, USERS, client_of, relay_once, until

RATE_HZ = 25.0
LOAD_S_MAX = 40.0


class Load:
    """What came of the requests that went on all the while."""

    def __init__(self):
        self.rankings: list[Ranking] = []
        self.errors: list[str] = []
        self.sent = 0

    def since(self, place: int) -> list[Ranking]:
        return self.rankings[place:]

    async def more(self, count: int) -> None:
        """Wait for so many more answers."""
        wanted = len(self.rankings) + count

        async def there() -> bool:
            return len(self.rankings) >= wanted or bool(self.errors)

        await until(there, f"{count} more answers")


@asynccontextmanager
async def load_on(cluster):
    """Open-loop requests of all users while the block runs; then all are awaited and judged."""
    load, stopping = Load(), asyncio.Event()
    rng = np.random.default_rng(5)

    async def one(client, user: int) -> None:
        try:
            load.rankings.append((await relay_once(client, user, wait_s=0.04))[1])
        except RelayError as error:
            load.errors.append(f"{type(error).__name__}: {error}")

    async def send(client) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(int(LOAD_S_MAX * RATE_HZ)):
                if stopping.is_set():
                    return
                tasks.create_task(one(client, int(rng.integers(USERS))))
                load.sent += 1
                await asyncio.sleep(rng.exponential(1.0 / RATE_HZ))

    async with client_of(cluster) as client:
        sending = asyncio.create_task(send(client))
        try:
            await load.more(10)
            yield load
        finally:
            stopping.set()
            await sending
    assert not load.errors, load.errors[:5]
    assert len(load.rankings) == load.sent
    assert max(one.score_difference for one in load.rankings) <= SCORE_DIFFERENCE_MOST


async def test_killing_a_ranker_leaves_nothing_unanswered_and_the_other_takes_over(cluster):
    lost, left = cluster.ranker_names
    async with load_on(cluster) as load:
        assert {one.instance_id for one in load.rankings} == {lost, left}
        cluster.kill(lost)
        await asyncio.to_thread(cluster.wait_settled, [left])
        place = len(load.rankings)
        await load.more(20)
        # A verified request that was ranked by the lost one may still be under way at `place`.
        assert {one.instance_id for one in load.since(place)[10:]} == {left}
        assert any(one.tier != "FULL" for one in load.since(place)), "the relay goes on on the other"
        cluster.supervisor.restart(lost)
        await asyncio.to_thread(cluster.wait_settled, cluster.ranker_names)
        place = len(load.rankings)

        async def relays_again() -> bool:
            return any(one.instance_id == lost and one.tier != "FULL" for one in load.since(place))

        await until(relays_again, "the restarted ranker relays again")


async def test_killing_the_expander_costs_the_dram_tier_only(cluster):
    async with load_on(cluster) as load:
        cluster.kill("expander")
        place = len(load.rankings)
        await load.more(30)
        assert any(one.tier in ("DEVICE", "JOINED") for one in load.since(place)[15:])
        cluster.supervisor.restart("expander")
        await asyncio.to_thread(cluster.supervisor.wait_ready, "expander")
        place = len(load.rankings)

        async def reloads_again() -> bool:
            return any(one.tier == "DRAM" for one in load.since(place))

        await until(reloads_again, "psi comes back from DRAM after the restart", timeout_s=25.0)


async def test_with_etcd_gone_requests_go_on_from_the_last_snapshot(cluster):
    async with load_on(cluster) as load:
        cluster.kill("etcd")
        place = len(load.rankings)
        # Longer than the leases of the registrations.
        await asyncio.sleep(3.0)
        await load.more(10)
        seen = load.since(place)
        assert {one.instance_id for one in seen} == set(cluster.ranker_names)
        assert any(one.tier != "FULL" for one in seen)
        cluster.supervisor.restart("etcd")
        await asyncio.to_thread(cluster.supervisor.wait_ready, "etcd")
        await asyncio.to_thread(cluster.wait_settled, cluster.ranker_names)
        await load.more(10)


async def test_a_router_that_comes_back_finds_the_instances_again(cluster):
    cluster.kill("router")
    cluster.restart("router")
    await asyncio.to_thread(cluster.wait_settled, cluster.ranker_names)
    async with client_of(cluster) as client:
        _, ranking = await relay_once(client, 7, wait_s=0.1)
    assert ranking.score_difference <= SCORE_DIFFERENCE_MOST


async def test_without_a_trigger_requests_are_ranked_in_full(cluster):
    cluster.kill("trigger")
    async with client_of(cluster) as client:
        relay = await client.arrive(user=8)
        async with relay:
            ranking = await relay.rank([1, 2, 3], verify=True)
    assert relay.decision == "UNKNOWN" and relay.arrive_error is not None
    assert ranking.score_difference <= SCORE_DIFFERENCE_MOST
