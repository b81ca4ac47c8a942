"""Whether processes grow, from samples of what each has allocated, and of its files. Pure.

A process is judged once it has run for a while: what it takes at its start is no growth. Of one that was killed and
started again, the longest life is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.tiers.soak_samples import ProcessSample, Sample

AGE_LEAST_S = 120.0
"""Lives shorter than this say nothing."""
SETTLED_S = 45.0
"""Caches and pools are full by then."""
GROWN_MAX_MB = 4.0
"""Less is the allocator's. Over ten minutes at 80 requests a second it is 250 bytes a request."""
FDS_GROWN_MAX = 8


@dataclass(frozen=True, slots=True)
class Growth:
    """Of one process over its longest life."""

    seconds: float
    slope_mb_per_hour: float
    ratio: float
    """The mean of the last third against that of the second."""
    grown_mb: float
    """The same as a difference."""
    fds: int
    """The most of the last third less the most of the second."""

    @property
    def is_growing(self) -> bool:
        """True when it is more than noise."""
        return self.grown_mb > GROWN_MAX_MB or self.fds > FDS_GROWN_MAX

    def to_json(self) -> dict[str, float]:
        """For the line."""
        return {
            "seconds": round(self.seconds),
            "slope_mb_per_hour": round(self.slope_mb_per_hour, 2),
            "ratio": round(self.ratio, 4),
            "grown_mb": round(self.grown_mb, 2),
        }


def growths(samples: Sequence[Sample]) -> dict[str, Growth | None]:
    """By process; None when no life of it was long enough."""
    lives: dict[str, dict[int, list[tuple[float, ProcessSample]]]] = {}
    for sample in samples:
        for one in sample.processes:
            lives.setdefault(one.name, {}).setdefault(one.pid, []).append((sample.at_s, one))
    return {name: growth(max(of_pid.values(), key=_length_s)) for name, of_pid in lives.items()}


def growth(life: Sequence[tuple[float, ProcessSample]]) -> Growth | None:
    """Of one life, with the seconds at which it was seen."""
    if _length_s(life) < AGE_LEAST_S:
        return None
    settled = [(at_s, one) for at_s, one in life if one.age_s >= SETTLED_S]
    third = len(settled) // 3
    if third < 2:
        return None
    times_s = np.array([at_s for at_s, _ in settled])
    held_mb = np.array([one.anonymous_mb for _, one in settled])
    fds = [one.fds for _, one in settled]
    second, last = float(held_mb[third : 2 * third].mean()), float(held_mb[-third:].mean())
    return Growth(
        seconds=_length_s(life),
        slope_mb_per_hour=3600.0 * float(np.polyfit(times_s - times_s[0], held_mb, 1)[0]),
        ratio=last / second,
        grown_mb=last - second,
        fds=max(fds[-third:]) - max(fds[third : 2 * third]),
    )


def _length_s(life: Sequence[tuple[float, ProcessSample]]) -> float:
    return life[-1][1].age_s
