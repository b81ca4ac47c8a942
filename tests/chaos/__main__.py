"""The chaos suite: `python -m tests.chaos`. Ends with one JSON line; the exit code is 1 when a rule is broken."""

from __future__ import annotations

import argparse
import asyncio
import fnmatch
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.chaos.catalogue import ALL, SHORT, chosen, lengthened
from tests.chaos.ground import Oracle, prepared
from tests.chaos.report import line_of, table_of
from tests.chaos.runner import Played, Player, play_all
from tests.chaos.scenario import Pace, Scenario
from tests.chaos.stage import STAGES, staged

RUN_DIR = Path("run/chaos")


def run(
    scenarios: Sequence[Scenario], pace: Pace, seed: int, run_dir: Path, *, has_console: bool = True
) -> list[Played]:
    """Play them, those of one cluster after another.

    Raises:
        ProcessFailed: a process did not come up, or not again.
    """
    ground = prepared(run_dir / "ground")
    oracle = Oracle(ground)
    played: list[Played] = []
    for name in STAGES:
        wanted = [scenario for scenario in scenarios if scenario.stage == name]
        if not wanted:
            continue
        _say(f"stage {name}: {len(wanted)} scenarios")
        with staged(name, ground, run_dir / name, seed, has_console=has_console) as stage:
            played += asyncio.run(play_all(Player(stage, pace, oracle, seed), wanted, _say))
        if left := stage.shared_files():
            played[-1].leaks.append(f"{len(left)} files in shared memory after the end")
    return played


def main(arguments: list[str] | None = None) -> int:
    """Run, say what came of it; 0 when every rule held."""
    given = _options(arguments)
    scenarios = _wanted(given)
    if given.list:
        sys.stdout.writelines(f"{one.name}: {one.kind.value}, on {' and '.join(one.on)}\n" for one in scenarios)
        return 0
    # As the demo: SIGTERM ends the clusters in order, also where a script in the background has SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    begun_s = time.monotonic()
    played = run(scenarios, replace(Pace(), rate_hz=given.rate), given.seed, given.run_dir)
    line = line_of(played, given.seed, time.monotonic() - begun_s)
    _say(table_of(played))
    for one in played:
        for text in one.broken:
            _say(f"{one.scenario.name}: BROKEN: {text}")
        for text in one.verdict.unjudged:
            _say(f"{one.scenario.name}: not judged, the machine was busy: {text}")
    sys.stdout.write(json.dumps(line) + "\n")
    return int(bool(line["broken"]))


def _wanted(given: argparse.Namespace) -> list[Scenario]:
    found = [one for one in ALL if any(fnmatch.fnmatch(one.name, pattern) for pattern in given.only or ["*"])]
    if given.short:
        found = [one for one in found if one.name in SHORT]
    if given.choose:
        found = chosen(found, given.choose, given.seed)
    return [lengthened(one) for one in found] if given.long else found


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Faults on real processes, under load.")
    parser.add_argument("--only", action="append", metavar="PATTERN", help="names, such as 'cut_*'; repeatable")
    parser.add_argument("--short", action="store_true", help="a handful")
    parser.add_argument("--long", action="store_true", help="etcd gone for ten minutes instead of 20 seconds")
    parser.add_argument("--choose", type=int, metavar="N", help="N of them, by the seed")
    parser.add_argument("--seed", type=int, default=1, help="of traffic, choice and the proxy")
    parser.add_argument("--rate", type=float, default=Pace().rate_hz, help="requests a second")
    parser.add_argument("--run-dir", type=Path, default=RUN_DIR)
    parser.add_argument("--list", action="store_true", help="say what would be played")
    return parser.parse_args(arguments)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
