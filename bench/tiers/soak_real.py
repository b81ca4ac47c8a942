"""Minutes of load on a real cluster with tiny arenas while its processes are killed and stopped.

At the end the load stops, windows close, and what requests held must have been given back; memory and files of the
processes that lived long enough must not have grown.

Source: design, section 5, invariants I3, I5, I6, I7.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.load.profile import Profile
from bench.tiers.soak_churn import BLOWS, Blow, churn
from bench.tiers.soak_ground import PAGE_BYTES, prepare
from bench.tiers.soak_growth import Growth, growths
from bench.tiers.soak_load import SoakLoad, SoakOutcome
from bench.tiers.soak_samples import Sample, Sampler
from demo.cluster import Cluster, ClusterPlan
from demo.processes import Supervisor

PSI_PAGES = 3
"""Of one user on average."""
DEVICE_PSI, DRAM_PSI = 8, 30
RATE_HZ = 80.0
"""Near 60 % of what two cores hold, the client included: at 140 a second half of the requests are declined."""
CHURN_S = 60.0
SAMPLE_S = 5.0
SETTLE_LEAST_S, SETTLE_S = 6.0, 30.0
"""Wait for what was held: at least a period of the metrics, at most a silent ranker's lapse, a window and some rest."""
ANSWERED_LEAST = 0.97
"""Of requests that ought to be answered: a process that is stopped holds up what it was asked for."""
ERRORS_ALLOWED = ("DeadlineTooShort", "Refused", "Unreachable")
"""Classes of errors that overload and churn explain; any other is a bug."""


@dataclass(frozen=True, kw_only=True)
class RealSettings:
    """One run."""

    seconds: float
    rate_hz: float = RATE_HZ
    seed: int = 1
    churn_s: float = CHURN_S
    blows: Sequence[Blow] = BLOWS
    sample_s: float = SAMPLE_S
    run_dir: Path = Path("run/bench/tier-soak")


@dataclass(slots=True)
class RealSoak:
    """What came of it."""

    settings: RealSettings
    outcome: SoakOutcome
    samples: list[Sample]
    blows: Counter[str]
    must_be_zero: dict[str, int]
    leaked: dict[str, int]
    """What was still held after the longest wait, or by whom nothing was said."""
    settled_s: float
    log_errors: dict[str, int]
    """Lines of level error, by process."""
    growth: dict[str, Growth | None] = field(default_factory=dict)

    @property
    def verdict(self) -> list[str]:
        """What is not as it should be; nothing when all is well."""
        outcome = self.outcome
        found = [f"{name} is {value}" for name, value in (self.must_be_zero | self.leaked).items() if value]
        found += [f"{name} logged {count} errors" for name, count in self.log_errors.items() if count]
        found += [f"{name} grows" for name, growth in self.growth.items() if growth is not None and growth.is_growing]
        found += [text for text in outcome.errors if text.rpartition(" ")[2] not in ERRORS_ALLOWED]
        if outcome.wrong_scores or not outcome.verified:
            found.append(f"{outcome.wrong_scores} of {outcome.verified} scores are wrong")
        if outcome.answered < ANSWERED_LEAST * outcome.judged:
            found.append(f"{outcome.answered} of {outcome.judged} were answered")
        return found

    def to_json(self) -> dict[str, Any]:
        """For the line."""
        return {
            "minutes": round(self.settings.seconds / 60, 2),
            "rate_hz": self.settings.rate_hz,
            **self.outcome.to_json(),
            "restarts": dict(self.blows),
            "rss_growth": {name: one.to_json() if one else None for name, one in self.growth.items()},
            "fds_growth": {name: one.fds if one else None for name, one in self.growth.items()},
            "leaked": self.leaked,
            "settled_s": round(self.settled_s, 1),
            "must_be_zero": self.must_be_zero,
            "log_errors": self.log_errors,
            "verdict": "; ".join(self.verdict) or "ok",
        }


def soak(settings: RealSettings, profile: Profile) -> RealSoak:
    """Start a cluster, load it, let it settle, judge it. To be called from the main thread.

    Raises:
        ProcessFailed: a process did not come up, or not again.
    """
    run_dir = settings.run_dir
    run_dir.mkdir(parents=True, exist_ok=True)
    for log in (run_dir / "logs").glob("*.log"):
        log.unlink()
    ground = prepare(run_dir / "ground")
    with Supervisor(run_dir / "logs") as supervisor:
        cluster = Cluster(_plan(run_dir, ground.model_dir, ground.store_dir), supervisor)
        cluster.start()
        load = SoakLoad(
            trigger=cluster.addresses["trigger"],
            router=cluster.addresses["router"],
            generation=ground.generation,
            profile=profile,
            rate_hz=settings.rate_hz,
            seed=settings.seed,
        )
        found = asyncio.run(_soak(settings, cluster, load))
    with (run_dir / "samples.jsonl").open("w") as file:
        file.writelines(json.dumps(sample.to_json()) + "\n" for sample in found.samples)
    return found


def _plan(run_dir: Path, model_dir: Path, store_dir: Path) -> ClusterPlan:
    quiet = {"trace_sample_ratio": "0"}
    return ClusterPlan(
        run_dir=run_dir,
        model_dir=model_dir,
        store_dir=store_dir,
        device_budget_bytes=DEVICE_PSI * PSI_PAGES * PAGE_BYTES,
        dram_budget_bytes=DRAM_PSI * PSI_PAGES * PAGE_BYTES,
        overrides={
            "trigger": {**quiet, "footprint_share": "0.9", "pre_infer_share": "0.9"},
            "router": quiet,
            "ranker": {**quiet, "pre_infer_share": "0.9", "entries_max": "12", "tickets_max": "12"},
            "expander": {**quiet, "entries_max": str(DRAM_PSI), "pins_max": "3", "entry_age_s": "60"},
        },
    )


async def _soak(settings: RealSettings, cluster: Cluster, load: SoakLoad) -> RealSoak:
    sampler, blows = Sampler(cluster), Counter[str]()
    async with (
        _beside(churn(cluster, settings.churn_s, settings.blows, blows)),
        _beside(_sample(sampler, settings.sample_s)),
    ):
        outcome = await load.run(settings.seconds)
    begun_s = time.monotonic()
    leaked = await _settled(cluster, sampler)
    return RealSoak(
        settings=settings,
        outcome=outcome,
        samples=sampler.samples,
        blows=blows,
        must_be_zero=dict(sampler.must_be_zero),
        leaked=leaked,
        settled_s=time.monotonic() - begun_s,
        log_errors={name: _errors_in(cluster, name) for name in cluster.supervisor.names()},
        growth=growths(sampler.samples),
    )


@contextlib.asynccontextmanager
async def _beside(coroutine: Any) -> AsyncIterator[None]:
    """Something that goes on until the block ends; its failure is the block's."""
    task = asyncio.create_task(coroutine)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _sample(sampler: Sampler, every_s: float) -> None:
    while True:
        await asyncio.to_thread(sampler.take)
        await asyncio.sleep(every_s)


async def _settled(cluster: Cluster, sampler: Sampler) -> dict[str, int]:
    """Wait until nothing is held any more; what is held after the longest wait."""
    begun_s = time.monotonic()
    while True:
        sample = await asyncio.to_thread(sampler.take)
        ended = {f"{name} ended": abs(code) or 1 for name, code in cluster.supervisor.ended().items()}
        silent = {f"{name} silent": 1 for name in sample.unanswered}
        leaked = sample.held | ended | silent
        waited_s = time.monotonic() - begun_s
        if waited_s > (SETTLE_S if any(leaked.values()) else SETTLE_LEAST_S):
            return leaked
        await asyncio.sleep(0.5)


def _errors_in(cluster: Cluster, name: str) -> int:
    lines = cluster.supervisor.log_path(name).read_text(errors="replace").splitlines()
    return sum(" level=error " in line or line.startswith("Traceback") for line in lines)
