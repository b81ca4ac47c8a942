"""The library a caller of RelayGR uses: asyncio and blocking, the same verbs.

async with RelayClient(trigger="trigger:7001", router="router:7002") as client:
    async with await client.arrive(user="42", candidate_count=500) as relay:
        with relay.stage("retrieval"):
            items = await retrieve("42")
        ranking = await relay.rank(items)
    print(ranking.top(10))

Ranks need not pass a router: with a watched copy of the instances they go straight to the one that has the user's psi,
and by a router only when that fails. It takes read access to etcd and a way to every ranker.

    from services.router.direct import DirectRanks

    client = RelayClient(trigger="trigger:7001", router="router:7002", direct=DirectRanks(("etcd:2379",)))
"""

from relaygr.behaviours.columns import Behaviours, Candidates, Cross, FeatureSpec, Profile
from relaygr.client.blocking import SyncRelay, SyncRelayClient
from relaygr.client.client import Forgotten, RelayClient
from relaygr.client.ranking import Ranking
from relaygr.client.relay import Relay

__all__ = [
    "Behaviours",
    "Candidates",
    "Cross",
    "FeatureSpec",
    "Forgotten",
    "Profile",
    "Ranking",
    "Relay",
    "RelayClient",
    "SyncRelay",
    "SyncRelayClient",
]
