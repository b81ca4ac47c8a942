"""A run's document with made-up figures, put together by the code that puts real ones together."""

from typing import Any

from bench.engine import assemble
from bench.engine.shapes import DENSE, NATIVE, Case, cases

RATES = {
    "threads": 1,
    "gemm_bf16_gflops": 200.0,
    "gemm_f32_gflops": 90.0,
    "silu_f32_ns": 0.4,
    "memcpy_gbps": 13.0,
    "touch_gbps": 2.0,
}
HEAD = {
    "benchmark": "engine",
    "date": "2026-01-02T03:04:05+00:00",
    "command": "make bench-engine",
    "only": [],
    "seed": 1,
    "source": {"commit": "0123456789abcdef", "is_changed": False},
    "cpu": "AMD EPYC",
    "hardware": {"cpu": "AMD EPYC", "flags": ["avx2", "avx512f", "avx512_bf16"], "usable_cores": 2},
    "seconds": 1000,
}


def result_of(case: Case) -> dict[str, Any]:
    if case.kernel == DENSE:
        return {"dense_ms": case.tokens / 2, "dense_lean_ms": case.tokens / 3, "peak_rss_mb": 900.0}
    prefix_ms = case.tokens / 16 / case.threads
    found: dict[str, Any] = {
        "kernel_used": "native/avx512-bf16" if case.kernel == NATIVE else "torch",
        "gemm_peak_gflops": 200.0 * case.threads,
        "prefix_ms": prefix_ms,
        "prefix_chunked_ms": prefix_ms,
        "append64_ms": prefix_ms / 20,
        "full_ms": prefix_ms * 1.3,
        "rank_ms": {"128": 10.0, "512": 40.0, "2048": 160.0},
        "prefix_of_peak": 0.7,
        "prefix_of_peak_naive": 0.9,
        "peak_rss_mb": 300 + case.tokens / 50,
        "added_rss_mb": case.tokens / 50,
        "minflt_per_rank": 0.0,
        "minflt_per_prefix": 0.0 if case.tokens < 4096 else None,
        "rss_growth_kb": 0,
    }
    if case.kernel == NATIVE:
        found["part_ns"] = {"norm": 1_000_000, "projection": 3_000_000, "attention": 6_000_000}
    return found


def document(**changes: Any) -> dict[str, Any]:
    """Everything measured; changes replace results of others by name."""
    others: dict[str, Any] = {
        "machine-1": {"rates": RATES, "noise": {"stolen_share": 0.0}, "versions": {"torch": "2"}},
        "machine-2": {"rates": RATES | {"threads": 2}, "noise": {}, "versions": {"torch": "2"}},
        "score_error": {"score_err": {"bf16": 0.03, "int8": None}, "tokens": 1024, "candidates": 512},
        "reload": {"reload_gbps": 6.0, "memcpy_gbps": 10.0},
        "preempt": {"preempt_wait_p99_ms": 3.0},
        "noise": {"noise": {"stolen_share": 0.1}},
    }
    return assemble.document(HEAD, [(case, result_of(case)) for case in cases()], others | changes)
