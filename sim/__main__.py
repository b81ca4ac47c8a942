"""One run: `python -m sim --instances 4 --seconds 30 --rate 80 --seed 7 [--faults]`. Ends with one JSON line."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from sim.cluster import Cluster
from sim.kernel import rest_collector
from sim.run import run
from sim.settings import Settings


def main(arguments: list[str] | None = None) -> int:
    """Run and print."""
    settings = settings_of(arguments)
    rest_collector()
    begun = time.perf_counter()
    cluster = run(settings)
    took_s = time.perf_counter() - begun
    line = outcome_of(cluster) | {"took_s": round(took_s, 2), "events_per_s": round(cluster.kernel.events / took_s)}
    for name, value in line.items():
        print(f"{name:14} {value}", file=sys.stderr)
    print(json.dumps(line))
    return 0


def settings_of(arguments: list[str] | None) -> Settings:
    """Settings from a command line."""
    parser = argparse.ArgumentParser(prog="python -m sim", description="The cores under virtual time.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--instances", type=int, default=4)
    parser.add_argument("--rate", type=float, default=80.0, help="arrivals a second, all together")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--triggers", type=int, default=1)
    parser.add_argument("--routers", type=int, default=1)
    parser.add_argument("--checks", choices=("full", "some"), default="full")
    parser.add_argument("--faults", action="store_true", help="things go wrong, drawn from the seed")
    given = parser.parse_args(arguments)
    return Settings(
        seed=given.seed,
        instances=given.instances,
        rate_hz=given.rate,
        seconds=given.seconds,
        triggers=given.triggers,
        routers=given.routers,
        checks=given.checks,
        has_faults=given.faults,
    )


def outcome_of(cluster: Cluster) -> dict[str, Any]:
    """What a run says of itself."""
    return cluster.record.to_json() | {"events": cluster.kernel.events, "hash": f"{cluster.kernel.digest:016x}"}


if __name__ == "__main__":
    sys.exit(main())
