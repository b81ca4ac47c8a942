"""How long a rank waits for the device while long pre-infers hold it, back to back.

The real executor and schedule drive the real generators of a pre-infer and of a rank.
Ranks arrive at random, whatever became of those before (open loop); two pre-infers are
always queued. Two waits are told apart: of a rank that was the first to ask a pre-infer
to yield (preempt_wait), and of all ranks, which also wait for one another (queue_wait).

    python -m bench.engine.preempt [--count 1000] [--share 0.3] [--kernel auto]

The last line is one JSON document. Source: design, section 3 (ranker).
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import itertools
import json
import math
import os
import platform
import random
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from relaygr.behaviours.columns import Behaviours, Candidates, Cross, Profile, chain_of
from relaygr.domain.chain import PAGE_TOKENS
from relaygr.domain.identity import ModelLimits
from relaygr.model.checkpoint import random_model
from relaygr.model.config import ModelConfig
from relaygr.model.interface import PageView, RelayModel, new_arena
from relaygr.model.run import run
from services.ranker.adapters.device.cpu import CpuDevice
from services.ranker.adapters.executor import Ending, Executor, Outcome
from services.ranker.assembly import compute_settings
from services.ranker.core.schedule import Job, JobClass, Schedule
from services.ranker.prefix import Prefix
from services.ranker.work import Suffix, produce, rank

ITEMS = 20_000
NOW_S = 1_700_000_000
DELTA_TOKENS = 32
QUEUED_PRE_INFERS = 2
"""One runs and one waits: the device is never without a pre-infer."""
CHUNK_TOKENS = 256
"""RankerConfig.chunk_tokens."""
RANK_DEADLINE_NS = 60_000_000_000
FAR_NS = 1 << 62
PROGRESS_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is asked of the device."""

    pre_infer_tokens: int = 8192
    psi_tokens: int = 2048
    """That ranks find."""
    candidates: int = 128
    count: int = 1000
    """Preempting ranks to measure."""
    share: float = 0.3
    """Of device time that ranks take."""
    seed: int = 1


def small_model(kernel: str = "auto") -> RelayModel:
    """Random bfloat16 weights of d256_h4x64_l4, on a kernel when this build has several."""
    config = ModelConfig(
        name="d256_h4x64_l4",
        version="bench",
        layers=4,
        width=256,
        heads=4,
        qk_dim=64,
        v_dim=64,
        normaliser=1024,
        items=ITEMS,
        actions=8,
        positions=8192 + DELTA_TOKENS,
        tasks=("click", "like"),
        limits=ModelLimits(16384, 1024, 512, 2048),
        dtype="bfloat16",
        head_width=256,
    )
    options: dict[str, Any] = {"kernel": kernel} if "kernel" in inspect.signature(random_model).parameters else {}
    return random_model(config, np.arange(ITEMS), 1, **options)


class _Bench:
    """One device with its pages, the work on it, and what became of it."""

    def __init__(self, model: RelayModel, load: Load):
        self.model, self.load = model, load
        self.random = np.random.default_rng(load.seed)
        self.prefix = _prefix(load.pre_infer_tokens, self.random)
        self.known = _prefix(load.psi_tokens, self.random)
        pages = [
            -(-tokens // PAGE_TOKENS) for tokens in (*[load.pre_infer_tokens] * QUEUED_PRE_INFERS, load.psi_tokens)
        ]
        ids = iter(range(sum(pages)))
        arena = new_arena(model, sum(pages))
        *self.free, psi = [PageView(arena, tuple(itertools.islice(ids, count)), 0) for count in pages]
        self.psi = run(produce(model, self.known, psi, load.psi_tokens, CHUNK_TOKENS, lambda chunk: None))
        self.pre_infers: list[Outcome] = []
        self.ranks: list[Outcome] = []
        self.chunks = 0

    def produce(self, pages: PageView) -> Generator[None, None, PageView]:
        return produce(self.model, self.prefix, pages, self.load.pre_infer_tokens, CHUNK_TOKENS, self._chunk_ended)

    def rank(self) -> Generator[None, None, torch.Tensor]:
        delta = behaviours(DELTA_TOKENS, self.random, NOW_S)
        candidates = Candidates.of(self.random.choice(ITEMS, self.load.candidates, replace=False))
        return rank(self.model, self.known, Suffix(delta, Cross.empty(), candidates, NOW_S + 10_000_000), self.psi)

    def rank_ns(self) -> int:
        """An undisturbed rank, the best of a few."""
        times_ns = []
        for work in [self.rank() for _ in range(5)]:
            begun_ns = time.perf_counter_ns()
            run(work)
            times_ns.append(time.perf_counter_ns() - begun_ns)
        return min(times_ns)

    @property
    def preempt_waits_ns(self) -> list[int]:
        return [outcome.preempt_wait_ns for outcome in self.ranks if outcome.preempt_wait_ns is not None]

    def _chunk_ended(self, chunk: Any) -> None:
        self.chunks += 1


def measure_preempt(model_factory: Callable[[], RelayModel] = small_model, load: Load = Load()) -> dict[str, Any]:
    """Waits of ranks, milliseconds, while pre-infers of `load` hold the device."""
    # As in a ranker: model and pages belong to the process, settings to the device's thread.
    with compute_settings(1, CpuDevice()):
        bench = _Bench(model_factory(), load)
        rank_ns = bench.rank_ns()
    begun_s = time.monotonic()
    asyncio.run(_drive(bench, rank_ns / 1e9 / load.share))
    elapsed_s = time.monotonic() - begun_s
    failed = [outcome for outcome in (*bench.ranks, *bench.pre_infers) if outcome.ending is Ending.FAILED]
    if failed:
        raise failed[0].value
    steps_ns = [outcome.longest_step_ns for outcome in bench.pre_infers]
    return {
        **percentiles("preempt_wait", bench.preempt_waits_ns),
        "count": len(bench.preempt_waits_ns),
        **percentiles("queue_wait", [outcome.queued_ns for outcome in bench.ranks]),
        "ranks": len(bench.ranks),
        **percentiles("rank_compute", [outcome.compute_ns for outcome in bench.ranks]),
        "rank_undisturbed_ms": rank_ns / 1e6,
        "pre_infer_step_max_ms": max(steps_ns, default=0) / 1e6,
        "pre_infer_tokens_per_s": bench.chunks * CHUNK_TOKENS / elapsed_s,
        "elapsed_s": elapsed_s,
    }


async def _drive(bench: _Bench, interval_s: float) -> None:
    """Submit ranks at random times until enough of them have preempted a pre-infer."""
    loop = asyncio.get_running_loop()
    executor = Executor(Schedule(1024), loop, lambda: compute_settings(1, CpuDevice()))
    job_ids = itertools.count(1)
    # Its own source of chance: the times of arrival must not depend on how much a rank draws.
    arrivals = random.Random(bench.load.seed)

    def keep_producing() -> None:
        while bench.free:
            pages = bench.free.pop()
            job = Job(next(job_ids), JobClass.PRE_INFER, FAR_NS, 1, droppable=True)
            executor.submit(job, bench.produce(pages), partial(produced, pages))

    def produced(pages: PageView, outcome: Outcome) -> None:
        bench.pre_infers.append(outcome)
        if outcome.ending is Ending.DONE:
            bench.free.append(pages)
            keep_producing()

    keep_producing()
    due_s = shown_s = loop.time()
    while len(bench.preempt_waits_ns) < bench.load.count and not _has_failed(bench):
        due_s += arrivals.expovariate(1 / interval_s)
        await asyncio.sleep(max(0.0, due_s - loop.time()))
        job = Job(next(job_ids), JobClass.RANK, time.monotonic_ns() + RANK_DEADLINE_NS, 1, droppable=False)
        executor.submit(job, bench.rank(), bench.ranks.append)
        if loop.time() - shown_s >= PROGRESS_S:
            shown_s = loop.time()
            done = len(bench.preempt_waits_ns)
            print(f"{done} of {bench.load.count} ranks, {bench.chunks} chunks", file=sys.stderr, flush=True)
    executor.close()
    # One more turn delivers the endings that the device's thread has posted.
    await asyncio.sleep(0)


def _has_failed(bench: _Bench) -> bool:
    return any(outcomes and outcomes[-1].ending is Ending.FAILED for outcomes in (bench.ranks, bench.pre_infers))


def percentiles(name: str, values_ns: list[int]) -> dict[str, float]:
    """Nearest rank, milliseconds."""
    ordered = sorted(values_ns) or [0]
    at = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {f"{name}_{key}_ms": ordered[max(0, math.ceil(share * len(ordered)) - 1)] / 1e6 for key, share in at.items()}


def _prefix(tokens: int, rng: np.random.Generator) -> Prefix:
    history = behaviours(tokens - 1, rng, NOW_S - 100_000_000)
    return Prefix(Profile.empty(), history, chain_of(Profile.empty(), history), 0, "")


def behaviours(count: int, rng: np.random.Generator, first_s: int) -> Behaviours:
    """A random history."""
    times_s = first_s + np.cumsum(rng.integers(1, 10_000, count))
    return Behaviours.of(rng.integers(0, ITEMS, count), times_s, actions=rng.integers(0, 8, count))


def about() -> dict[str, Any]:
    """What the figures belong to."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    model_names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    return {
        "commit": commit.stdout.strip(),
        "processor": model_names[0] if model_names else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "switch_interval_ms": sys.getswitchinterval() * 1e3,
    }


def _cpuinfo() -> list[str]:
    try:
        with open("/proc/cpuinfo") as lines:
            return list(lines)
    except OSError:
        return []


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", default="auto", help="as for a ranker; ignored by a build that has only one")
    parser.add_argument("--switch-interval-ms", type=float, default=sys.getswitchinterval() * 1e3)
    for name, kind in (("pre_infer_tokens", int), ("psi_tokens", int), ("candidates", int), ("count", int)):
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=getattr(Load(), name))
    parser.add_argument("--share", type=float, default=Load().share)
    parser.add_argument("--seed", type=int, default=Load().seed)
    given = vars(parser.parse_args())
    kernel, interval_ms = given.pop("kernel"), given.pop("switch_interval_ms")
    sys.setswitchinterval(interval_ms / 1e3)
    load = Load(**given)
    measured = measure_preempt(lambda: small_model(kernel), load)
    print(json.dumps({"benchmark": "preempt", **measured, "load": given, "kernel": kernel, **about()}))


if __name__ == "__main__":
    main()
