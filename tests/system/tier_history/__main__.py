"""Search for wrong bytes that were believed: python -m tests.system.tier_history [--offered N] [--rounds N] [--seed N].

Ends with one JSON line, and with 1 when something was wrong; then the history is kept and its place is told.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
from pathlib import Path

from tests.system.tier_history.checker import Verdict
from tests.system.tier_history.run import Plan, run


def report(verdict: Verdict, took_s: float) -> dict[str, object]:
    """What the last line says."""
    counts = verdict.counts
    found = {name: len(loads) for name, loads in verdict.problems.items() if loads}
    return {
        "loads": counts["loads"],
        "hits": counts["hits"],
        "stores": counts["stores"],
        "injected": dict(sorted(verdict.injected.items())),
        "offered": counts["offered"],
        "detected": counts["detected"],
        "undetected": counts["undetected"],
        "wrong_bytes": found.get("wrong_bytes", 0),
        "forgotten_seen": found.get("forgotten", 0),
        "problems": found,
        "met": dict(sorted(verdict.met.items())),
        "unharmed": counts["unharmed"],
        "stores_unknown": counts["stores_unknown"],
        "seconds": round(took_s, 1),
    }


def main() -> int:
    """Run and judge."""
    parser = argparse.ArgumentParser(prog="python -m tests.system.tier_history", description=__doc__)
    parser.add_argument("--offered", type=int, default=20_000, help="damages that loads have to come upon")
    parser.add_argument("--rounds", type=int, default=10, help="of kills, stops and restarts")
    parser.add_argument("--workers", type=int, default=4, help="processes that load and store")
    parser.add_argument("--seed", type=int, default=1, help="of what is done; not of when, which differs each time")
    parser.add_argument("--blind", action="store_true", help="do not compare digests: must end badly")
    asked = parser.parse_args()
    plan = Plan(
        seed=asked.seed, offered=asked.offered, workers=asked.workers, rounds=asked.rounds, is_blind=asked.blind
    )
    folder = Path(tempfile.mkdtemp(prefix="tier-history-"))
    verdict, took_s = asyncio.run(run(plan, folder))
    if verdict.is_right:
        shutil.rmtree(folder)
    else:
        sys.stderr.write(f"not right; the history is in {folder}\n")
    sys.stdout.write(json.dumps(report(verdict, took_s)) + "\n")
    return 0 if verdict.is_right else 1


if __name__ == "__main__":
    sys.exit(main())
