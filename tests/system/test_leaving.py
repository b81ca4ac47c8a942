"""A ranker that is told to stop serves out the windows that are open before it leaves."""

import asyncio
import os
import signal

from demo.cluster import describe_ranker
from tests.system.world import CANDIDATES, ITEMS, SCORE_DIFFERENCE_MOST, USERS, arrive_admitted, client_of, until

WAIT_S = 0.3
"""For retrieval; an idle ranker has left long before."""


async def test_what_was_admitted_before_sigterm_is_ranked_there_afterwards(cluster):
    supervisor = cluster.supervisor
    async with client_of(cluster) as client:
        relay = await arrive_admitted(client, USERS - 1)
        name = relay.arrived.instance_id

        async def is_accepted() -> bool:
            return describe_ranker(cluster.addresses[name]).open_tickets > 0

        await until(is_accepted, "the pre-infer is accepted")
        async with relay:
            os.kill(supervisor.pid(name), signal.SIGTERM)
            await asyncio.sleep(WAIT_S)
            ranking = await relay.rank(ITEMS[:CANDIDATES], request_time_s=1_700_000_000, verify=True)
        assert (ranking.instance_id, ranking.branch) == (name, "TICKET")
        assert ranking.tier in ("DEVICE", "DRAM", "JOINED")
        assert ranking.score_difference <= SCORE_DIFFERENCE_MOST

        async def has_ended() -> bool:
            return supervisor.ended().get(name) == 0

        await until(has_ended, "the ranker ends once nothing comes any more", timeout_s=5.0)
