"""The same without an event loop, and with the history sent along instead of read from a store."""

import sys
import time

from relaygr.client import SyncRelayClient


def recommend(trigger: str, router: str, user: str, history: dict[str, list[int]]) -> list[tuple[int, float]]:
    """`history` holds item_ids and timestamps_s, oldest first; actions and features are optional."""
    with SyncRelayClient(trigger=trigger, router=router) as client:
        with client.arrive(user=user, behaviours=history, candidate_count=100) as relay:
            time.sleep(0.05)  # your retrieval and pre-processing
            ranking = relay.rank(list(range(1, 101)))
        return ranking.top(10)


if __name__ == "__main__":
    seen = {"item_ids": [50, 172, 133], "timestamps_s": [874_965_706, 874_965_730, 874_965_758]}
    print(recommend(*sys.argv[1:4], history=seen))
