"""What the cores do at sizes that no test machine has: `python -m sim.report`. Ends with one JSON line.

One large run (with `--large` of two million requests, compiled); a cluster with a tenth of its instances lost; what a
joiner moves; and a small cluster with one part taken out at a time. Device times are a cost model's, so figures say how
decisions compare, not how fast a machine is.

Source: design, section 3.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from typing import Any

from relaygr.domain.slots import SLOTS
from services.router.core.slots import assign
from sim.ablations import ABLATIONS
from sim.cluster import Cluster
from sim.compiled import output_of
from sim.fidelity import of_newest_report
from sim.kernel import rest_collector
from sim.large import large, measured, sized
from sim.settings import MIB

REQUESTS = 100_000
LARGE_REQUESTS = 2_000_000
RECOVERED = 0.99
"""Of the share that met the budgets before a loss."""
RECOVERY_INSTANCES = 40
ABLATION_INSTANCES = 16


def main(arguments: list[str] | None = None) -> int:
    """Run all parts and print."""
    parser = argparse.ArgumentParser(prog="python -m sim.report", description="Large clusters under virtual time.")
    parser.add_argument("--instances", type=int, default=1000)
    parser.add_argument("--requests", type=int, help=f"of the large run; {REQUESTS}, or {LARGE_REQUESTS} with --large")
    parser.add_argument("--large", action="store_true", help="two million requests, by the compiled simulator")
    parser.add_argument("--ablation-seconds", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    requests = given.requests or (LARGE_REQUESTS if given.large else REQUESTS)
    run_large = large_compiled if given.large else large
    line: dict[str, Any] = {"seed": given.seed, **run_large(given.instances, requests, given.seed)}
    rest_collector()
    say("large", line)
    line["moved_on_scale_out"] = moved_on_scale_out(given.instances)
    line["recovery"] = recovery(min(given.instances, RECOVERY_INSTANCES), given.seed)
    say("recovery", line["recovery"])
    line["ablations"] = ablations(given.ablation_seconds, given.seed)
    line["fidelity"] = of_newest_report()
    say("fidelity", line["fidelity"])
    print(json.dumps(line))
    return 0


def large_compiled(instances: int, requests: int, seed: int) -> dict[str, Any]:
    """One run of a large cluster by the compiled simulator, in a process of its own."""
    options = ["--instances", str(instances), "--requests", str(requests), "--seed", str(seed)]
    found: dict[str, Any] = json.loads(output_of("sim.large", options))
    return found


def moved_on_scale_out(instances: int) -> float:
    """Share of the slots that move when one instance joins, times the number of instances: 1 is the least."""
    names = [f"ranker-{number:04d}" for number in range(instances + 1)]
    before = assign(None, dict.fromkeys(names[:-1], 1))
    after = assign(before, dict.fromkeys(names, 1))
    return round(sum(one != other for one, other in zip(before, after, strict=True)) / SLOTS * (instances + 1), 3)


def recovery(instances: int, seed: int, seconds: float = 20.0) -> dict[str, Any]:
    """A tenth of the instances is killed half-way and does not come back."""
    cluster = Cluster(sized(instances, seconds, seed))
    lost = max(1, instances // 10)
    at_ns = int(seconds / 2 * 1e9)
    for ranker in list(cluster.rankers.values())[::10][:lost]:
        cluster.kernel.at(at_ns, ranker.die)
    cluster.run()
    return {"instances": instances, "lost": lost, "recovery_s": recovery_s(cluster, seconds / 2), **measured(cluster)}


def recovery_s(cluster: Cluster, at_s: float) -> float | None:
    """From a loss until a second's requests meet the budgets nearly as often as before; None if they never do."""
    tenths = cluster.record.by_tenth
    at = int(at_s * 10)
    before = met(tenths, at // 2, at)
    for tenth in range(at, max(tenths, default=at) - 9):
        if met(tenths, tenth, tenth + 10) >= RECOVERED * before:
            return round((tenth - at) / 10, 1)
    return None


def met(tenths: dict[int, list[int]], first: int, end: int) -> float:
    """Share of the requests that met both budgets."""
    seen = [tenths.get(tenth, [0, 0]) for tenth in range(first, end)]
    return sum(each[1] for each in seen) / max(1, sum(each[0] for each in seen))


def ablations(seconds: float, seed: int) -> dict[str, Any]:
    """The same traffic with one part taken out at a time."""
    found: dict[str, Any] = {}
    whole = replace(
        sized(ABLATION_INSTANCES, seconds, seed), device_budget_bytes=64 * MIB, rate_hz=55.0 * ABLATION_INSTANCES
    )
    for name in ("", *ABLATIONS):
        cluster = Cluster(replace(whole, ablation=name, has_dram=name not in ("no_dram", "remote_pool")))
        cluster.run()
        found[name or "none"] = measured(cluster)
        say(name or "none", found[name or "none"])
    return found


def say(name: str, value: object) -> None:
    """Progress, on standard error."""
    print(f"{name}: {value}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
