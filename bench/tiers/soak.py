"""The tiers' soak: `python -m bench.tiers.soak`. Ends with one JSON line; the exit code is 1 when the verdict is bad.

First hours of virtual time through the cores, then minutes of load on a real cluster whose processes are killed and
stopped meanwhile. Both at full tables and tiny arenas.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from bench.engine.machine import hardware
from bench.load.profile import load_profile
from bench.tiers.soak_real import CHURN_S, RATE_HZ, RealSettings, soak
from bench.tiers.soak_virtual import Churn, SoakWorld

PARTS = ("virtual", "real")


def main(arguments: list[str] | None = None) -> int:
    """Run, say what came of it; 0 when all is well."""
    given = _options(arguments)
    profile = load_profile(given.profile)
    line: dict[str, Any] = {"hardware": hardware(), "seed": given.seed}
    parts = [given.only] if given.only else PARTS
    if "virtual" in parts:
        _say(f"{given.hours:g} hours of virtual time …")
        line["virtual"] = SoakWorld(profile, given.seed, Churn()).run(int(3600 * given.hours)).to_json()
        _say(f"virtual: {line['virtual']['verdict']}")
    if "real" in parts:
        _say(f"{given.minutes:g} minutes of load …")
        line["real"] = _real(given)
        _say(f"real: {line['real']['verdict']}")
    verdicts = {part: line[part]["verdict"] for part in parts}
    line["verdict"] = "ok" if set(verdicts.values()) == {"ok"} else verdicts
    print(json.dumps(line))
    return int(line["verdict"] != "ok")


def _real(given: argparse.Namespace) -> dict[str, Any]:
    settings = RealSettings(
        seconds=60 * given.minutes,
        rate_hz=given.rate,
        seed=given.seed,
        churn_s=given.churn,
        run_dir=given.run_dir,
    )
    found = soak(settings, load_profile(given.profile))
    if given.out:
        # Here, because drawing takes a second to import.
        from bench.tiers.soak_plot import draw

        draw(found.samples, given.out / "tier-soak.svg")
        (given.out / "tier-soak.json").write_text(json.dumps(found.to_json(), indent=1) + "\n")
    return found.to_json()


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.tiers.soak", description="Leaks, stuck states, growth.")
    parser.add_argument("--only", choices=PARTS, help="instead of both")
    parser.add_argument("--hours", type=float, default=2.0, help="of virtual time")
    parser.add_argument("--minutes", type=float, default=10.0, help="of load")
    parser.add_argument("--rate", type=float, default=RATE_HZ, help="requests a second")
    parser.add_argument("--churn", type=float, default=CHURN_S, help="seconds from one kill or stop to the next")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--profile", default="default", help="whose traffic is sent")
    parser.add_argument("--run-dir", type=Path, default=Path("run/bench/tier-soak"))
    parser.add_argument("--out", type=Path, help="a folder for a picture and the figures")
    return parser.parse_args(arguments)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
