"""One large run: `python -m sim.large --instances 1000 --requests 2000000`. Ends with one JSON line.

Says how far it is every few seconds. From the compiled copy (compiled.py) it takes half the time (README.md).

Memory: a user who will not come back is not remembered, and a request is forgotten when it has ended; so what is
held grows with the instances, with what their tiers hold and with the requests under way, not with the users.

Source: design, sections 3 and 8.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import sys
import time
from typing import Any

from sim.cluster import REST_NS, Cluster
from sim.kernel import SECOND
from sim.record import Record, share
from sim.settings import MIB, Settings

RATE_HZ = 40.0
"""Arrivals a second and instance."""
SERVED = 128
"""Instances for which another trigger and router is started."""
FRONTS_MAX = 8
STEP_REQUESTS = 10_000
"""Between two checks of everything, and two looks at the clock."""
TELL_S = 5.0


def main(arguments: list[str] | None = None) -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="python -m sim.large", description="One large cluster under virtual time.")
    parser.add_argument("--instances", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=2_000_000)
    parser.add_argument("--users", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    print(json.dumps(large(given.instances, given.requests, given.seed, users=given.users)))
    return 0


def sized(instances: int, seconds: float, seed: int, users: int = 10_000_000) -> Settings:
    """Settings of a cluster under the same load an instance, whatever its size."""
    fronts = min(FRONTS_MAX, max(1, instances // SERVED))
    return Settings(
        seed=seed,
        instances=instances,
        instances_per_host=8,
        rate_hz=RATE_HZ * instances,
        seconds=seconds,
        users=users,
        triggers=fronts,
        routers=fronts,
        dram_budget_bytes=8192 * MIB,
        checks="some",
    )


def large(instances: int, requests: int, seed: int, users: int = 10_000_000) -> dict[str, Any]:
    """One run of a large cluster."""
    begun, cpu_s = time.perf_counter(), time.process_time()
    seconds = requests / (RATE_HZ * instances)
    cluster = Cluster(sized(instances, seconds, seed, users))
    built_s, built_bytes = time.perf_counter() - begun, memory_bytes()
    # What a request leaves behind makes no circles: counting references frees it, and a collector only looks.
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        checking_s = run_telling(cluster)
    finally:
        gc.enable()
        gc.unfreeze()
    took_s = time.perf_counter() - begun - built_s
    return {
        "instances": instances,
        "users": users,
        **measured(cluster),
        "events": cluster.kernel.events,
        "events_per_s": round(cluster.kernel.events / took_s),
        "built_s": round(built_s, 1),
        "seconds": round(took_s, 1),
        "cpu_s": round(time.process_time() - cpu_s, 1),
        "us_per_request": round(took_s * 1e6 / max(1, cluster.record.requests), 1),
        "effect_hash": f"{cluster.kernel.digest:016x}",
        "checks_done": cluster.checks.done,
        "whole_checks": cluster.checks.whole,
        "whole_checks_s": round(checking_s, 1),
        "built_bytes": built_bytes,
        "memory_bytes": memory_bytes(),
    }


def run_telling(cluster: Cluster) -> float:
    """Run to the end, check everything at each step, and say now and then how far it is; seconds of these checks."""
    settings = cluster.settings
    step_ns = max(1, int(STEP_REQUESTS / settings.rate_hz * SECOND))
    end_ns = int(settings.seconds * SECOND)
    begun = told = time.perf_counter()
    checking_s = 0.0
    cluster.begin()
    while cluster.kernel.now_ns < end_ns:
        cluster.kernel.run(min(end_ns, cluster.kernel.now_ns + step_ns))
        checking_s -= time.perf_counter()
        cluster.checks.all_now()
        now = time.perf_counter()
        checking_s += now
        if now - told >= TELL_S:
            told = now
            say(cluster.record, cluster.kernel.now_ns / end_ns, now - begun)
    cluster.rest()
    assert cluster.kernel.now_ns >= end_ns + REST_NS
    return checking_s


def say(record: Record, part: float, took_s: float) -> None:
    """Progress, on standard error."""
    text = f"{part:6.1%}  {record.requests:>9} requests  {took_s:6.0f} s  {memory_bytes() / MIB:7.0f} MiB"
    print(f"{text}  {share(record.met, record.requests)} met", file=sys.stderr, flush=True)


def measured(cluster: Cluster) -> dict[str, Any]:
    """What one run shows."""
    record = cluster.record
    busy = [ranker.device.busy_ns for ranker in cluster.rankers.values() if ranker.is_alive]
    mean_ns = sum(busy) / len(busy)
    return {
        "requests": record.requests,
        "slo_met": share(record.met, record.requests),
        "rank_p99_ms": record.quantile_ms(0.99),
        "survival": share(record.survived, record.accepted),
        "affinity": share(record.met_instance, record.accepted),
        "on_psi": share(sum(record.tiers[tier] for tier in ("DEVICE", "DRAM", "JOINED")), record.ranked),
        "max_over_mean_load": round(max(busy) / mean_ns, 3) if mean_ns else None,
        "device_busy": round(mean_ns / (cluster.settings.seconds * 1e9), 3),
        "declined": {name: count for name, count in sorted(record.decisions.items()) if name != "ADMITTED"},
        "errors": dict(record.errors),
    }


def memory_bytes() -> int:
    """The most that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())
