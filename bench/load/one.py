"""A single probe, to look into: `python -m bench.load.one --mode relay_dram --tokens 1024 --rate 20`."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from bench.load.ablations.modes import MODES
from bench.load.deployment import deployed
from bench.load.ground import prepare
from bench.load.probe import Probe, run_probe
from bench.load.profile import load_profile


def main(arguments: list[str] | None = None) -> None:
    """Start a mode, send once or more, print what came of it as JSON lines."""
    given = _options(arguments)
    profile = load_profile(given.profile)
    traffic = profile.traffic
    if given.requests:
        traffic = replace(traffic, requests=given.requests)
    if given.return_share is not None:
        traffic = replace(traffic, return_share=given.return_share)
    ground = prepare(profile.model, given.ground)
    with deployed(MODES[given.mode], profile, ground, given.run_dir, has_traces=given.traces) as deployment:
        for number, rate_hz in enumerate(given.rate):
            probe = Probe(
                purpose="one",
                tokens=given.tokens,
                rate_hz=rate_hz,
                seed=given.seed + number,
                traffic=traffic,
                first_user=number * 1024 % profile.model.users,
            )
            print(json.dumps(run_probe(deployment, probe, given.run_dir / f"probe-{number}")), flush=True)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.load.one", description="One mode, one length, some rates.")
    parser.add_argument("--mode", choices=sorted(MODES), default="relay_dram")
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--rate", type=float, nargs="+", default=[20.0], metavar="HZ")
    parser.add_argument("--requests", type=int, help="counted requests; the profile's when absent")
    parser.add_argument("--return-share", type=float)
    parser.add_argument("--traces", action="store_true", help="with a collector; pages in RUN_DIR/traces")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--profile", default="default")
    parser.add_argument("--run-dir", type=Path, default=Path("run/bench/load-one"))
    parser.add_argument("--ground", type=Path, default=Path("run/bench/ground"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
