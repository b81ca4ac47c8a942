"""Times jobs in rounds, with the machine's peak measured before and after each.

A disturbance then spoils one round of every job, which the median leaves out, and not
all repeats of one; and a job's share of the peak compares neighbours in time, so that a
clock that changes does not show as an engine that changes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

BATCH_S = 0.05
"""A job shorter than this is repeated within a round: the first call finds the caches that the peak's matrices left."""
BATCH_CALLS_MAX = 12
LONG_MS = 500.0
"""A job longer than this is warmed up by one call and not by two."""


@dataclass(frozen=True, slots=True)
class Rounds:
    """How many, and until when."""

    least: int = 3
    most: int = 9
    seconds: float = 5.0
    """No further round is begun after this, beyond the least."""
    long_s: float = 20.0
    """And none beyond the second after this: the longest cases take half a minute a round."""

    def is_enough(self, count: int, elapsed_s: float) -> bool:
        """True when no further round is to begin."""
        least = self.least if elapsed_s < self.long_s else min(self.least, 2)
        return count >= self.most or (count >= least and elapsed_s >= self.seconds)


@dataclass(frozen=True, slots=True)
class Job:
    """What is timed."""

    name: str
    call: Callable[[], object]
    flops: int


@dataclass(slots=True)
class Series:
    """One job's repeats over all rounds."""

    times_ms: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    """Of the peak around it; one a round."""


@dataclass(slots=True)
class Measured:
    """All repeats of all jobs."""

    series: dict[str, Series]
    peaks_gflops: list[float] = field(default_factory=list)
    rounds: int = 0


def time_ms(call: Callable[[], object]) -> float:
    """Of one call."""
    begun = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - begun) / 1e6


def interleaved(jobs: Sequence[Job], peak_gflops: Callable[[], float], rounds: Rounds) -> Measured:
    """Warm up each job once, then time them all round by round."""
    measured = Measured({job.name: Series() for job in jobs})
    batches = {job.name: _batch(job) for job in jobs}
    peak_gflops()
    begun = time.monotonic()
    while not rounds.is_enough(measured.rounds, time.monotonic() - begun):
        before = peak_gflops()
        measured.peaks_gflops.append(before)
        for job in jobs:
            times_ms = [time_ms(job.call) for _ in range(batches[job.name])]
            after = peak_gflops()
            measured.peaks_gflops.append(after)
            series = measured.series[job.name]
            series.times_ms += times_ms
            series.shares.append(job.flops / (float(np.median(times_ms)) * 1e6) / ((before + after) / 2))
            before = after
        measured.rounds += 1
    return measured


def _batch(job: Job) -> int:
    """Calls of one round, from a second call: the first pays for what is made once."""
    if time_ms(job.call) > LONG_MS:
        return 1
    return int(np.clip(BATCH_S * 1e3 / max(time_ms(job.call), 1e-6), 1, BATCH_CALLS_MAX))
