"""Replays a trace, also one recorded elsewhere: `python -m bench.load.replay TRACE.jsonl --mode relay_dram`.

The cluster and the histories are the profile's: a trace says who asks when and how long the
history is then, not what is in it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.load.ablations.modes import MODES
from bench.load.deployment import Deployment, deployed
from bench.load.ground import prepare
from bench.load.probe import send
from bench.load.profile import Model, load_profile
from bench.load.tally import tally
from bench.load.trace import read_trace, write_trace
from bench.load.traffic import PlannedRequest


def main(arguments: list[str] | None = None) -> int:
    """Start a mode, replay, print what came of it as one JSON line; 1 when the trace does not fit the profile."""
    given = _options(arguments)
    profile = load_profile(given.profile)
    try:
        requests = read_trace(given.trace, speed=given.speed)
        check(requests, profile.model)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    ground = prepare(profile.model, given.ground)
    with deployed(MODES[given.mode], profile, ground, given.run_dir, has_traces=given.traces) as deployment:
        row = replay(deployment, requests, given.run_dir / "replay")
    print(json.dumps({"mode": given.mode, "trace": str(given.trace), "speed": given.speed, **row}), flush=True)
    return 0


def check(requests: Sequence[PlannedRequest], model: Model) -> None:
    """Users and lengths are those of the profile's histories.

    Raises:
        ValueError: names the first request that asks for more.
    """
    for request in requests:
        if request.user >= model.users:
            raise ValueError(f"request {request.index}: user {request.user}, the profile has {model.users}")
        if request.behaviours + request.delta > model.behaviours:
            raise ValueError(
                f"request {request.index}: {request.behaviours} behaviours and {request.delta} more, "
                f"the profile's users have {model.behaviours}"
            )
    if not any(request.is_counted for request in requests):
        raise ValueError("no request is counted")


def replay(deployment: Deployment, requests: Sequence[PlannedRequest], folder: Path) -> dict[str, Any]:
    """Send a trace, and add up what came of the counted requests."""
    folder.mkdir(parents=True, exist_ok=True)
    write_trace(folder / "trace.jsonl", requests, {"mode": deployment.mode.name})
    outcomes, _ = send(deployment, folder)
    pairs = list(zip(requests, outcomes, strict=True))
    counted = [pair for pair in pairs if pair[0].is_counted]
    return {"requests": len(counted), "warmup": len(pairs) - len(counted), **tally(counted, deployment.profile.slo)}


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.load.replay", description="Replays a trace on a cluster.")
    parser.add_argument("trace", type=Path, metavar="TRACE.jsonl")
    parser.add_argument("--mode", choices=sorted(MODES), default="relay_dram")
    parser.add_argument("--speed", type=_speed, default=1.0, help="arrivals so many times closer together")
    parser.add_argument("--traces", action="store_true", help="with a collector; pages in RUN_DIR/traces")
    parser.add_argument("--profile", default="default", help="a name in bench/load/profiles, or a file")
    parser.add_argument("--run-dir", type=Path, default=Path("run/bench/load-replay"))
    parser.add_argument("--ground", type=Path, default=Path("run/bench/ground"))
    return parser.parse_args(arguments)


def _speed(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be positive")
    return value


if __name__ == "__main__":
    sys.exit(main())
