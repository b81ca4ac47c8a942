"""Runs the workers one after another and says on standard error how far it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.engine.counting import dense_flops, full_work, prefix_work
from bench.engine.shapes import DENSE, Case
from bench.engine.timing import Rounds

ROOT = Path(__file__).resolve().parents[2]
WORKER_S_MAX = 400.0
ASSUMED_GFLOPS = 70.0
"""One thread; only the estimate of the time left depends on it."""
START_S = 5.0
"""Python, torch and a model."""

Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Task:
    """One worker."""

    name: str
    task: Result
    threads: int
    assumed_s: float


def case_task(case: Case, seed: int, rounds: Rounds) -> Task:
    """The task of a case."""
    task = {"job": "case", "case": case.to_json(), "seed": seed, "rounds": asdict(rounds)}
    return Task(case.name, task, case.threads, assumed_s(case, rounds))


def assumed_s(case: Case, rounds: Rounds) -> float:
    """How long it may take; only for the estimate."""
    if case.kernel == DENSE:
        flops = 2 * dense_flops(case.shape, case.tokens)
    else:
        flops = 2 * prefix_work(case.shape, case.tokens).flops + 2 * full_work(case.shape, case.tokens, 2048).flops
    round_s = flops / (ASSUMED_GFLOPS * 1e9 * case.threads) + 0.7
    return START_S + round_s + max(rounds.least * round_s, min(rounds.most * round_s, rounds.seconds))


class Runner:
    """Runs tasks; knows how many are left."""

    def __init__(self, tasks: Sequence[Task]):
        self._left = list(tasks)
        self._done_assumed_s, self._begun = 0.0, time.monotonic()
        self._count = len(tasks)

    def run(self, task: Task) -> Result:
        """The worker's result, or {"failed": why}."""
        self._say(task.name)
        result = spawn(task)
        self._left.remove(task)
        self._done_assumed_s += task.assumed_s
        for kind in ("skipped", "failed"):
            if kind in result:
                print(f"    {kind}: {result[kind]}", file=sys.stderr, flush=True)
        return result

    def _say(self, name: str) -> None:
        elapsed_s = time.monotonic() - self._begun
        pace = elapsed_s / self._done_assumed_s if self._done_assumed_s else 1.0
        left_s = pace * sum(task.assumed_s for task in self._left)
        number = self._count - len(self._left) + 1
        print(
            f"[{number}/{self._count}] {name}   {elapsed_s:.0f} s, about {left_s:.0f} s left",
            file=sys.stderr,
            flush=True,
        )


def spawn(task: Task) -> Result:
    """Run one worker to its end; its last line is the result."""
    command = [sys.executable, "-m", "bench.engine.worker", json.dumps(task.task)]
    environment = os.environ | {"OMP_NUM_THREADS": str(task.threads), "MKL_NUM_THREADS": str(task.threads)}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=WORKER_S_MAX, check=False
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {WORKER_S_MAX:.0f} s"}
    if done.returncode:
        return {"failed": f"exit code {done.returncode}: {done.stderr.strip()[-600:]}"}
    result: Result = json.loads(done.stdout.strip().rpartition("\n")[2])
    return result
