"""What a request leaves behind once everything is warm: pages first touched, memory kept.

A minor fault is a page of memory that the process had not: a request that allocates
nothing, or only what it gave back a moment ago, takes none.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass

from bench.engine.memory import account

CALLS = 50
WARM_UP_CALLS = 5


@dataclass(frozen=True, slots=True)
class Steady:
    """Of so many calls after a warm-up."""

    calls: int
    minor_faults_per_call: float
    rss_growth_kb: int


def steady(call: Callable[[], object], calls: int = CALLS) -> Steady:
    """Repeat a request and ask the kernel before and after."""
    for _ in range(WARM_UP_CALLS):
        call()
    gc.collect()
    before = account()
    for _ in range(calls):
        call()
    after = account()
    return Steady(calls, (after.minor_faults - before.minor_faults) / calls, after.rss_kb - before.rss_kb)
