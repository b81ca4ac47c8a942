"""Many seeds with faults, over all cores: `python -m sim.many --seeds 200`. A seed that fails is printed and kept.

Kept seeds stand in tests/sim/seeds.txt and are run by every test run from then on.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import SystemRandom

from sim.faults import KINDS
from sim.run import run, small

KEPT = Path(__file__).resolve().parent.parent / "tests" / "sim" / "seeds.txt"


def main(arguments: list[str] | None = None) -> int:
    """Run and print; 1 when a seed failed."""
    parser = argparse.ArgumentParser(prog="python -m sim.many", description="Many small clusters with faults.")
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, help="the first seed; drawn when not given")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args(arguments)
    first = given.first if given.first is not None else SystemRandom().randrange(1, 1 << 30)
    begun = time.perf_counter()
    with ProcessPoolExecutor(given.workers) as pool:
        found = list(pool.map(fault_of, range(first, first + given.seeds), chunksize=4))
    failed = {seed: text for seed, text in found if text}
    for seed, text in failed.items():
        print(f"seed {seed}:\n{text}", file=sys.stderr)
    keep(failed)
    line = {
        "first": first,
        "seeds": given.seeds,
        "failed": sorted(failed),
        "took_s": round(time.perf_counter() - begun),
    }
    print(json.dumps(line))
    return 1 if failed else 0


def fault_of(seed: int, kinds: Sequence[str] = KINDS) -> tuple[int, str]:
    """A seed and what went wrong with it; nothing when all held."""
    try:
        run(small(seed), kinds)
    except Exception:
        # Whatever stops a core is a find: an assertion, but a KeyError, too.
        return seed, traceback.format_exc(limit=-6)
    return seed, ""


def kept() -> list[int]:
    """Seeds that failed once."""
    lines = KEPT.read_text().splitlines() if KEPT.exists() else []
    return [int(line.split()[0]) for line in lines if line and not line.startswith("#")]


def keep(seeds: Iterable[int]) -> None:
    """Add those that are not there yet."""
    new = sorted(set(seeds) - set(kept()))
    if new:
        with KEPT.open("a") as file:
            file.writelines(f"{seed}\n" for seed in new)


if __name__ == "__main__":
    sys.exit(main())
