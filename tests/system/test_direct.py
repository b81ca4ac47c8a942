"""A client that watches the instances itself: its ranks need no router, and triggers still hear of ended tickets."""

import asyncio
from contextlib import asynccontextmanager

from services.router.direct import DirectRanks
from tests.system.world import (
    CANDIDATES,
    ITEMS,
    SCORE_DIFFERENCE_MOST,
    arrive_admitted,
    client_of,
    relay_admitted,
    relay_once,
    until,
)

WINDOW_MS = 20_000.0
"""So long that a ticket which ends with its window would be noticed: the device has room for a few."""


@asynccontextmanager
async def direct_client(cluster):
    """A client whose own view knows the instances."""
    direct = DirectRanks((cluster.addresses["etcd"],))
    async with client_of(cluster, direct=direct) as client:

        async def knows() -> bool:
            # The first rank begins the watch.
            await relay_once(client, 1, budget_ms=10_000.0)
            return sorted(direct.instance_ids) == sorted(cluster.ranker_names)

        await until(knows, "the client knows the instances")
        yield client


async def test_an_admitted_request_is_ranked_on_psi_while_no_router_is_there(cluster):
    async with direct_client(cluster) as client:
        found = []

        async def on_psi() -> bool:
            found.append(await relay_admitted(client, 3, wait_s=0.2))
            return found[-1].tier in ("DEVICE", "DRAM")

        await until(on_psi, "a rank that goes directly finds psi")
        relay = await arrive_admitted(client, 3)
        await asyncio.sleep(0.2)
        cluster.kill("router")
        async with relay:
            ranking = await relay.rank(ITEMS[:CANDIDATES], request_time_s=1_700_000_000, verify=True)
    assert ranking.branch == "TICKET" and ranking.psi_tokens > 128
    assert ranking.score_difference <= SCORE_DIFFERENCE_MOST


async def test_tickets_that_ended_directly_make_room_before_their_windows_close(cluster):
    async with direct_client(cluster) as client:
        began_s = asyncio.get_running_loop().time()
        for number in range(24):
            relay = await arrive_admitted(client, number, latest_ms=WINDOW_MS)
            async with relay:
                await relay.rank(ITEMS[:CANDIDATES], request_time_s=1_700_000_000)
        assert asyncio.get_running_loop().time() - began_s < WINDOW_MS / 1e3
