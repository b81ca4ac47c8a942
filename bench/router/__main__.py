"""The router's benchmark: `python -m bench.router [--real]`. Ends with one JSON line; a few minutes.

Without `--real` the core alone is measured. With it, a router process in front of rankers that answer at once carries
calls of users who come once, beside a process of the same server and channels that only passes bytes on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

from bench.engine.machine import hardware
from bench.router.choices import measured, planning_ms, say

INSTANCES = (2, 16, 128, 1000)
TARGETS: dict[str, tuple[str, float]] = {
    "choice_at_1000_per_2": ("<=", 2.0),
    "plan_1000_ms": ("<=", 500.0),
    "rss_growth": ("<=", 1.1),
    "router_rss_growth": ("<=", 1.1),
    "added_p50_ms": ("<=", 0.3),
    "rate_ratio": (">=", 0.7),
}
"""Written before anything was measured."""


def main(arguments: list[str] | None = None) -> int:
    """Measure, print on standard error and one line on standard output."""
    given = _parser().parse_args(arguments)
    line: dict[str, Any] = {"hardware": hardware()} | _core(given)
    if given.real:
        from bench.router.real import measured_for_real

        line |= asyncio.run(measured_for_real(given))
    line["targets"] = {name: held for name in TARGETS if (held := _held(name, line)) is not None}
    text = json.dumps(line)
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(text + "\n")
    print(text)
    return 0


def _core(given: argparse.Namespace) -> dict[str, Any]:
    rows = []
    for instances in given.instances:
        users = given.users if instances == max(given.instances) else given.users // 10
        rows.append(measured(instances, users))
        choice_ns, request_ns = rows[-1]["choice_ns"], rows[-1]["request_ns"]
        say(f"{instances:>5} instances: {choice_ns:>6} ns a choice, {request_ns:>6} ns a request")
    last = rows[-1]
    plan = planning_ms(1000)
    say(f"slots of 1000 instances: {plan['plan']:.0f} ms from nothing, {plan['join']:.1f} ms for one more")
    say(f"memory at {last['instances']} instances and {last['users']} users: {last['rss']}")
    return {
        "choices": rows,
        "choice_at_1000_per_2": last["choice_ns"] / rows[0]["choice_ns"],
        "plan_1000_ms": plan["plan"],
        "join_1000_ms": plan["join"],
        "rss_growth": last["rss"]["at_end_mib"] / last["rss"]["after_tenth_mib"],
    }


def _held(name: str, line: dict[str, Any]) -> dict[str, Any] | None:
    if name not in line:
        return None
    sign, bound = TARGETS[name]
    value = round(line[name], 4)
    return {"value": value, "target": f"{sign} {bound:g}", "met": value >= bound if sign == ">=" else value <= bound}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.router", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--users", type=int, default=1_000_000, help="distinct users, at the most instances (1000000)")
    parser.add_argument("--instances", type=int, nargs="+", default=INSTANCES, help="how many, one size after another")
    parser.add_argument("--real", action="store_true", help="a router process, too")
    parser.add_argument(
        "--calls", type=int, default=100_000, help="users through it (100000; a million takes ten times as long)"
    )
    parser.add_argument("--concurrency", type=int, default=32, help="calls at a time (32)")
    parser.add_argument("--out", type=Path, help="a file for the line, too")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
