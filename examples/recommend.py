"""The ten lines an integrator writes: python examples/recommend.py TRIGGER ROUTER USER."""

import asyncio
import sys

from relaygr.client import RelayClient


async def recommend(trigger: str, router: str, user: str, items: list[int]) -> list[tuple[int, float]]:
    """Announce the request when retrieval begins; rank when the candidates are there."""
    async with RelayClient(trigger=trigger, router=router) as client:
        async with await client.arrive(user=user, candidate_count=len(items)) as relay:
            with relay.stage("retrieval"):
                await asyncio.sleep(0.05)  # your retrieval and pre-processing
            ranking = await relay.rank(items)
        return ranking.top(10)


if __name__ == "__main__":
    print(asyncio.run(recommend(*sys.argv[1:4], items=list(range(1, 101)))))
