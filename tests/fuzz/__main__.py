"""Fuzzes what reads from outside: `python -m tests.fuzz --inputs 1000000 --seed 1 --target ranker`.

Progress goes to stderr, one JSON line to stdout; the exit code is 1 when a fault was found. See docs/fuzzing.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from pathlib import Path
from random import SystemRandom

from tests.fuzz.corpus import CORPUS
from tests.fuzz.run import fuzz, opener
from tests.fuzz.supervise import supervise
from tests.fuzz.table import Table
from tests.fuzz.verdict import FAULTS, Tally

INPUTS = 1_000_000
WEIGHTS = {
    "trigger": 14,
    "router": 14,
    "ranker": 14,
    "expander": 14,
    "transfers": 8,
    "remote": 4,
    "lanes": 8,
    "etcd": 10,
    "segments": 4,
    "behaviours": 4,
    "checkpoints": 1,
    "settings": 4,
    "traces": 4,
    "console": 6,
}
"""Of a run's inputs, by target: most to what anybody on the network reaches, least to what takes milliseconds each."""


def shares(targets: list[str], inputs: int) -> list[tuple[str, int]]:
    """Inputs of each target."""
    total = sum(WEIGHTS[target] for target in targets)
    return [(target, -(-inputs * WEIGHTS[target] // total)) for target in targets]


def summary(tallies: dict[str, Tally], seed: int, elapsed_s: float) -> dict[str, object]:
    """The last line."""
    found = {target: tally.to_json() for target, tally in tallies.items()}
    totals = {kind.value: sum(one[kind.value] for one in found.values()) for kind in FAULTS}
    inputs = sum(one["inputs"] for one in found.values())
    return {**found, "inputs": inputs, "seed": seed, "elapsed_s": round(elapsed_s, 1), **totals}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description="Fuzz everything that reads from outside."
    )
    parser.add_argument("--inputs", type=int, default=INPUTS, help="in all, over the targets")
    parser.add_argument("--seed", type=int, help="drawn when not given")
    parser.add_argument("--target", action="append", choices=list(WEIGHTS), help="repeatable; all when not given")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes at a time")
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="where faults are kept")
    parser.add_argument("--table", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--no-replay", action="store_true", help="do not begin with the inputs kept")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else SystemRandom().randrange(1, 1 << 30)
    targets = given.target or list(WEIGHTS)
    began_s = time.perf_counter()
    if given.table is not None:
        run = fuzz(
            targets[0],
            opener(targets[0]),
            given.inputs,
            seed,
            table=Table(given.table),
            corpus=given.corpus,
            is_replayed=not given.no_replay,
        )
        tallies = {targets[0]: asyncio.run(run)}
    else:
        tallies = supervise(shares(targets, given.inputs), seed, given.workers, given.corpus)
    last = summary(tallies, seed, time.perf_counter() - began_s)
    sys.stdout.write(json.dumps(last) + "\n")
    return 1 if any(last[kind.value] for kind in FAULTS) else 0


if __name__ == "__main__":
    sys.exit(main())
