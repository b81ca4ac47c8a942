"""Figures that are measured beside the grid: reload from DRAM, and how long a rank waits for a preemption."""

from __future__ import annotations

from typing import Any

from bench.engine.preempt import Load, measure_preempt
from bench.engine.reload import measure_reload

QUICK_COUNT = 100
"""Preempting ranks of a quick run: five seconds, and a P99 that is their maximum."""


def measure(name: str, *, is_quick: bool) -> dict[str, Any]:
    """Of "reload" or "preempt"."""
    if name == "reload":
        return measure_reload()
    return measure_preempt(load=Load(count=QUICK_COUNT) if is_quick else Load())
