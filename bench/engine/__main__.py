"""The engine against this machine: `python -m bench.engine [--quick] [--only PATTERN] [--trained DIR]`.

Tables and progress go to standard error; the last line of standard output is one JSON
document, also written to --out for `python -m bench.engine.report`. The exit code is 1
when a measurement broke; a figure short of its target does not break anything.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from bench.engine import assemble, machine
from bench.engine.progress import ROOT, Runner, Task, case_task
from bench.engine.shapes import THREADS, THREADS_QUICK, cases
from bench.engine.summary import print_summary
from bench.engine.timing import Rounds

QUICK = Rounds(least=2, most=3, seconds=1.0)
BESIDE = {"score_error": 5.0, "reload": 5.0, "preempt": 55.0, "noise": 2.0}
"""Jobs that belong to no case, and how long each may take."""
DEMO_DIR = Path(".cache/demo/ml-100k")


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write."""
    given = _parser().parse_args(arguments)
    begun = time.monotonic()
    wanted = cases(quick=given.quick, only=given.only)
    if not wanted:
        print("no case matches --only", file=sys.stderr)
        return 2
    rounds = QUICK if given.quick else Rounds()
    usable = len(os.sched_getaffinity(0))
    threads = [count for count in (THREADS_QUICK if given.quick else THREADS) if count <= usable]
    machine_tasks = [Task(f"machine-{count}", {"job": "machine"}, count, 8.0) for count in threads]
    case_tasks = [case_task(case, given.seed, rounds) for case in wanted if case.threads in threads]
    beside = [] if given.only else _beside(given.seed, given.trained, is_quick=given.quick)
    runner = Runner([*machine_tasks, *case_tasks, *beside])
    hardware = machine.hardware()
    others = {task.name: runner.run(task) for task in machine_tasks}
    results = dict(zip((task.name for task in case_tasks), map(runner.run, case_tasks), strict=True))
    too_many = {"skipped": f"{usable} cores usable"}
    found = [(case, results.get(case.name, too_many)) for case in wanted]
    others |= {task.name: runner.run(task) for task in beside}
    head = _head(given, hardware) | {"seconds": round(time.monotonic() - begun)}
    document = assemble.document(head, found, others)
    print_summary(document, sys.stderr)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document), flush=True)
    return 1 if document["failed"] else 0


def _beside(seed: int, trained: Path | None, *, is_quick: bool) -> list[Task]:
    tasks: dict[str, dict[str, Any]] = {name: {"job": name, "is_quick": is_quick} for name in BESIDE}
    folder = trained or (DEMO_DIR if (DEMO_DIR / "checkpoint").is_dir() else None)
    tasks["score_error"] |= {"seed": seed, "trained": str(folder.resolve()) if folder else None}
    return [Task(name, tasks[name], 1, assumed_s) for name, assumed_s in BESIDE.items()]


def _head(given: argparse.Namespace, hardware: dict[str, Any]) -> dict[str, Any]:
    return {
        "benchmark": "engine",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": "make bench-engine-quick" if given.quick else "make bench-engine",
        "only": given.only,
        "seed": given.seed,
        "source": machine.source(ROOT),
        "cpu": hardware["cpu"],
        "hardware": hardware,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.engine", description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--quick", action="store_true", help="4096 tokens and one thread: about two minutes")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PATTERN",
        help="cases whose model/tokens/threads/kernel matches, as '*/4096/1/*'; may be repeated",
    )
    parser.add_argument(
        "--trained", type=Path, help=f"folder of trainer.pipeline for AUC ({DEMO_DIR} when it is there)"
    )
    parser.add_argument("--out", type=Path, default=Path("run/bench/engine.json"), help="the document, also here")
    parser.add_argument("--seed", type=int, default=1, help="of weights and histories")
    return parser


if __name__ == "__main__":
    sys.exit(main())
