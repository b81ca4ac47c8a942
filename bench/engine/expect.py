"""Back-of-envelope times, from counted work and the machine's own rates; written before the runs.

A gap between FORMULA and the figure is a question to ask of the engine, or of the sketch.
The share of a peak and the speed-up follow from the times.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.engine.counting import Work, append_work, dense_flops, full_work, prefix_work, rank_work
from bench.engine.shapes import APPEND_TOKENS, CANDIDATES, CANDIDATES_TYPICAL, SHAPES, TORCH, Shape

FORMULA = """\
time = linear / (bf16 peak * 0.80)
     + attention * tiles / (peak of the kernel's sums * 0.80)
     + scores * SiLU
     + rows * 6 * heads width * 2 bytes * passes / memcpy
     + cached K/V * passes / memcpy"""

GEMM_SHARE = 0.80
"""Products here have one side of 64 to 512; a square of 2048 is what the peak was measured with."""
DIAGONAL_TOKENS = 128
"""Of causal rows, half a block this wide is computed and masked."""
NATIVE_SILU_NS = 0.2
"""One score, one thread, AVX-512: 14 instructions for 16 scores, two a cycle; with loads and packing twice that."""
ELEMENTWISE_PASSES = {"torch": 8, "native": 3}
"""How often a layer's U, V, Q, K, AV and result rows go through memory: an operator each, or fused."""
CONTEXT_PASSES = {"torch": 5, "native": 1}
"""Of cached K/V: torch joins pages and widens them to float32; native reads pages as they lie."""
DENSE_PASSES = 8
"""Of the score matrix: written, SiLU, division and mask read and write it, PV reads it; the mask is a half more."""
DENSE_FRESH = 3
"""New matrices of a layer."""
RELOAD_OF_MEMCPY = 0.8
"""The bytes are copied once and digested while they are in the cache."""
PREEMPT_WAIT_MS = 2.0
"""One slice of about a millisecond, and a wake-up."""


@dataclass(frozen=True, slots=True)
class Sketch:
    """An expected time by its parts, milliseconds."""

    linear_ms: float
    attention_ms: float
    silu_ms: float
    traffic_ms: float

    @property
    def total_ms(self) -> float:
        """All of it."""
        return self.linear_ms + self.attention_ms + self.silu_ms + self.traffic_ms

    def text(self) -> str:
        """The sum as one writes it down."""
        return (
            f"{self.linear_ms:.3g} linear + {self.attention_ms:.3g} attention + {self.silu_ms:.3g} SiLU"
            f" + {self.traffic_ms:.3g} traffic = {self.total_ms:.3g} ms"
        )


def sketch(shape: Shape, work: Work, kernel: str, rates: Mapping[str, Any], *, tiles: float = 1.0) -> Sketch:
    """Of one job; rates as peaks.Rates has them, tiles the share of pairs computed over pairs needed."""
    is_torch = kernel == TORCH
    sums_gflops = rates["gemm_f32_gflops"] if is_torch else rates["gemm_bf16_gflops"]
    silu_ns = rates["silu_f32_ns"] if is_torch else NATIVE_SILU_NS / rates["threads"]
    row_bytes = work.rows * 6 * shape.heads_width * 2 * ELEMENTWISE_PASSES[kernel]
    context_bytes = work.context_bytes * CONTEXT_PASSES[kernel]
    return Sketch(
        linear_ms=work.linear_flops / (GEMM_SHARE * rates["gemm_bf16_gflops"] * 1e6),
        attention_ms=work.attention_flops * tiles / (GEMM_SHARE * sums_gflops * 1e6),
        silu_ms=work.scores * tiles * silu_ns / 1e6,
        traffic_ms=(row_bytes + context_bytes) / (rates["memcpy_gbps"] * 1e6),
    )


def dense_sketch(shape: Shape, tokens: int, rates: Mapping[str, Any]) -> Sketch:
    """Of the dense baseline; SiLU of bfloat16 is reckoned as torch's of float32."""
    scores = shape.layers * shape.heads * tokens * tokens
    linear = prefix_work(shape, tokens).linear_flops
    peak = GEMM_SHARE * rates["gemm_bf16_gflops"] * 1e6
    copied_ms = scores * 2 * DENSE_PASSES / 2 / (rates["memcpy_gbps"] * 1e6)
    touched_ms = scores * 2 * DENSE_FRESH / (rates["touch_gbps"] * 1e6)
    return Sketch(
        linear_ms=linear / peak,
        attention_ms=(dense_flops(shape, tokens) - linear) / peak,
        silu_ms=scores * rates["silu_f32_ns"] / 1e6,
        traffic_ms=copied_ms + touched_ms,
    )


def sketches(model: str, tokens: int, kernel: str, rates: Mapping[str, Any]) -> dict[str, Sketch]:
    """Of all jobs of a case, by their names in the result."""
    shape = SHAPES[model]
    tiles = 1 + DIAGONAL_TOKENS / tokens
    found = {
        "prefix_ms": sketch(shape, prefix_work(shape, tokens), kernel, rates, tiles=tiles),
        "append64_ms": sketch(shape, append_work(shape, tokens, APPEND_TOKENS), kernel, rates),
        "full_ms": sketch(shape, full_work(shape, tokens, CANDIDATES_TYPICAL), kernel, rates, tiles=tiles),
        "dense_ms": dense_sketch(shape, tokens, rates),
    }
    ranks = {f"rank{count}_ms": sketch(shape, rank_work(shape, tokens, count), kernel, rates) for count in CANDIDATES}
    return found | ranks


def expected(model: str, tokens: int, kernel: str, rates: Mapping[str, Any]) -> dict[str, float]:
    """Figures of a case under the names that targets use."""
    times = {name: one.total_ms for name, one in sketches(model, tokens, kernel, rates).items()}
    at_peak_ms = prefix_work(SHAPES[model], tokens).flops / (rates["gemm_bf16_gflops"] * 1e6)
    return times | {
        "prefix_of_peak": at_peak_ms / times["prefix_ms"],
        "speedup_dense": times["dense_ms"] / times["prefix_ms"],
        "rank512_of_full": times["rank512_ms"] / times["full_ms"],
        "append64_of_prefix": times["append64_ms"] / times["prefix_ms"],
    }
