"""What the cores do at sizes that no test machine has: `python -m sim.report`. Ends with one JSON line.

One large run (with `--large` of two million requests, compiled); what a joiner moves; how soon a loss, restarts, a
flash crowd and twice the load are over; and clusters of chosen sizes with one part taken out at a time. Device times
are a cost model's, so figures say how decisions compare, not how fast a machine is.

Source: design, section 3.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from relaygr.domain.slots import SLOTS
from services.router.core.slots import assign
from sim.comparison import compared, stressed
from sim.compiled import output_of
from sim.fidelity import of_newest_report
from sim.kernel import rest_collector
from sim.large import large

REQUESTS = 100_000
LARGE_REQUESTS = 2_000_000
STRESS_INSTANCES = 40
ABLATION_INSTANCES = 16


def main(arguments: list[str] | None = None) -> int:
    """Run all parts and print."""
    parser = argparse.ArgumentParser(prog="python -m sim.report", description="Large clusters under virtual time.")
    parser.add_argument("--instances", type=int, default=1000)
    parser.add_argument("--requests", type=int, help=f"of the large run; {REQUESTS}, or {LARGE_REQUESTS} with --large")
    parser.add_argument("--large", action="store_true", help="two million requests, by the compiled simulator")
    parser.add_argument("--ablation-seconds", type=float, default=10.0, help="at most; large clusters run shorter")
    parser.add_argument("--sizes", type=int, nargs="+", default=[ABLATION_INSTANCES], help="of ablations: 16 128 1000")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    requests = given.requests or (LARGE_REQUESTS if given.large else REQUESTS)
    run_large = large_compiled if given.large else large
    line: dict[str, Any] = {"seed": given.seed, **run_large(given.instances, requests, given.seed)}
    rest_collector()
    say("large", line)
    line["moved_on_scale_out"] = moved_on_scale_out(given.instances)
    line["stress"] = stressed(min(given.instances, STRESS_INSTANCES), given.seed)
    line["recovery_s"] = line["stress"]["lose_tenth"]["recovery_s"]
    say("stress", line["stress"])
    line["ablations"] = compared(given.sizes, given.ablation_seconds, given.seed, say)
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


def say(name: str, value: object) -> None:
    """Progress, on standard error."""
    print(f"{name}: {value}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
