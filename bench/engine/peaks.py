"""Rates of this machine that figures are compared with: products, SiLU, copies, and how quiet it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from bench.engine.statistics import rounded, summary
from bench.engine.timing import time_ms

GEMM_SIZE = 2048
COPY_BYTES = 256 * 1024 * 1024
"""Beyond any cache."""
REPEATS = 7
IDLE_S = 0.5
IDLE_GAP_NS = 20_000
"""A loop that only reads the clock takes well under a microsecond; a longer gap is someone else's time."""


class GemmPeak:
    """torch.mm of two square matrices into a third that is there already; GFLOP/s of one call."""

    def __init__(self, dtype: torch.dtype = torch.bfloat16, size: int = GEMM_SIZE):
        generator = torch.Generator().manual_seed(1)
        self._a, self._b = (torch.randn(size, size, generator=generator).to(dtype) for _ in range(2))
        self._out = torch.empty(size, size, dtype=dtype)
        self._flops = 2 * size**3

    def __call__(self) -> float:
        """Measured once, now."""
        return self._flops / (time_ms(self._multiply) * 1e6)

    @torch.inference_mode()
    def _multiply(self) -> None:
        torch.mm(self._a, self._b, out=self._out)


@dataclass(frozen=True, slots=True)
class Rates:
    """What expect.py reckons with."""

    threads: int
    gemm_bf16_gflops: float
    gemm_f32_gflops: float
    silu_f32_ns: float
    """Of torch, for one element of a block that fits the second cache; all threads together."""
    memcpy_gbps: float
    """Bytes copied, not bytes read and written."""
    touch_gbps: float
    """Bytes written to memory that the process did not have: what a large fresh tensor costs besides its use."""


def rates(threads: int) -> Rates:
    """Measure them all with torch's current threads; a few seconds."""
    scores = torch.randn(4, 128, 1024)
    fresh = scores.clone()

    def silu_ns() -> float:
        fresh.copy_(scores)
        return time_ms(lambda: F.silu(fresh, inplace=True)) * 1e6 / scores.numel()

    return Rates(
        threads,
        rounded(_median(GemmPeak())),
        rounded(_median(GemmPeak(torch.float32))),
        rounded(_median(silu_ns)),
        rounded(_median(_memcpy_gbps())),
        rounded(_median(_touch_gbps)),
    )


def noise() -> dict[str, float]:
    """How much of a waiting loop's time was somebody else's."""
    stop = time.perf_counter_ns() + int(IDLE_S * 1e9)
    gaps, before = [], time.perf_counter_ns()
    while before < stop:
        now = time.perf_counter_ns()
        if now - before > IDLE_GAP_NS:
            gaps.append(now - before)
        before = now
    return {
        "stolen_share": rounded(sum(gaps) / (IDLE_S * 1e9)),
        "longest_gap_ms": rounded(max(gaps, default=0) / 1e6),
    }


def _median(measure: Callable[[], float]) -> float:
    measure()
    return summary([measure() for _ in range(REPEATS)]).median


def _memcpy_gbps() -> Callable[[], float]:
    source, target = np.ones(COPY_BYTES, np.uint8), np.zeros(COPY_BYTES, np.uint8)
    return lambda: COPY_BYTES / (time_ms(lambda: np.copyto(target, source)) * 1e6)


def _touch_gbps() -> float:
    # As torch takes a large result: malloc maps pages of this size anew each time.
    return COPY_BYTES / (time_ms(lambda: torch.empty(COPY_BYTES, dtype=torch.uint8).fill_(1)) * 1e6)
