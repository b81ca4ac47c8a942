"""The same for callers without an event loop: python examples/recommender_sync.py TRIGGER ROUTER USER [REQUESTS]."""

import sys
import time

from relaygr.client import SyncRelayClient
from relaygr.errors import RelayError

ITEMS = list(range(1, 101))


def recommend(client: SyncRelayClient, user: str) -> str:
    """One request; the client may be shared by any number of threads."""
    with client.arrive(user=user, candidate_count=len(ITEMS)) as relay:
        with relay.stage("retrieval"):
            time.sleep(0.05)  # your retrieval
        with relay.stage("pre-processing"):
            time.sleep(0.01)  # your pre-processing
        ranking = relay.rank(ITEMS, deadline_ms=1000.0)
    item, score = ranking.top(1)[0]
    rank_ms = ranking.timings_ms["rank"]
    return f"{ranking.tier}  rank {rank_ms:.1f} ms  best item {item} ({score:.3f})  trace {ranking.trace_id}"


def main(trigger: str, router: str, user: str, requests: str = "1") -> int:
    """Requests one after another, a line for each."""
    with SyncRelayClient(trigger=trigger, router=router, arrive_timeout_ms=250.0) as client:
        for _ in range(int(requests)):
            try:
                print(recommend(client, user))
            except RelayError as error:
                print(f"not ranked: {error}; see which process is down with: relaygr health", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit((__doc__ or "").strip())
    raise SystemExit(main(*sys.argv[1:]))
