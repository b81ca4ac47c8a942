"""Puts what the workers measured into one document; adds what follows from it and measures nothing.

The baseline is measured once for each model, length and number of threads and stands in
every case of these sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.engine.counting import append_work, full_work, prefix_work, rank_work
from bench.engine.shapes import APPEND_TOKENS, CANDIDATES_TYPICAL, DENSE, NATIVE, SHAPES, Case
from bench.engine.statistics import rounded
from bench.engine.targets import verdicts

Result = dict[str, Any]


def document(head: Mapping[str, Any], results: Sequence[tuple[Case, Result]], others: Mapping[str, Result]) -> Result:
    """The whole run.

    Args:
        head: what is known before anything runs: date, seed, source, hardware.
        results: each case with what its worker returned, also when it was skipped or failed.
        others: results of the jobs "machine-THREADS", "score_error", "reload", "preempt" and "noise".
    """
    engine = [(case, result) for case, result in results if case.kernel != DENSE and _is_whole(result)]
    dense = {_sizes(case): result for case, result in results if case.kernel == DENSE}
    machines = [result for name, result in others.items() if name.startswith("machine") and _is_whole(result)]
    made: Result = {
        **head,
        "kernel": _used(engine),
        "versions": machines[0]["versions"] if machines else {},
        "rates": [machine["rates"] for machine in machines],
        "noise": {
            "before": machines[0]["noise"] if machines else None,
            "after": others.get("noise", {}).get("noise"),
        },
        "cases": [_case(case, result, dense.get(_sizes(case), {})) for case, result in engine],
        "dense": [case.to_json() | result for case, result in results if case.kernel == DENSE and _is_whole(result)],
        **_beside(others),
        "skipped": _reasons(results, others, "skipped"),
        "failed": _reasons(results, others, "failed"),
    }
    return made | {"targets": [one.to_json() for one in verdicts(made)]}


def _case(case: Case, result: Result, dense: Result) -> Result:
    dense_ms, prefix_ms = dense.get("dense_ms"), result["prefix_ms"]
    shape = SHAPES[case.model]
    rank, full = rank_work(shape, case.tokens, CANDIDATES_TYPICAL), full_work(shape, case.tokens, CANDIDATES_TYPICAL)
    append, prefix = append_work(shape, case.tokens, APPEND_TOKENS), prefix_work(shape, case.tokens)
    at_peak_ms = prefix.flops / (result["gemm_peak_gflops"] * 1e6)
    return case.to_json() | {
        **result,
        "dense_ms": dense_ms,
        "dense_lean_ms": dense.get("dense_lean_ms"),
        "dense_skipped": dense.get("skipped"),
        "speedup_dense": rounded(dense_ms / prefix_ms) if dense_ms else None,
        # What an engine at the peak would reach: no kernel can be asked for more.
        "speedup_dense_by_count": rounded(dense_ms / at_peak_ms) if dense_ms else None,
        "rank512_of_full": rounded(result["rank_ms"]["512"] / result["full_ms"]),
        "rank512_of_full_by_count": rounded(rank.flops / full.flops),
        "append64_of_prefix": rounded(result["append64_ms"] / prefix_ms),
        "append64_of_prefix_by_count": rounded(append.flops / prefix.flops),
    }


def _beside(others: Mapping[str, Result]) -> Result:
    """Figures that belong to no case; None where they were not measured."""
    reload, preempt = others.get("reload", {}), others.get("preempt", {})
    error = others.get("score_error", {})
    return {
        "preempt_wait_p99_ms": preempt.get("preempt_wait_p99_ms"),
        "reload_gbps": reload.get("reload_gbps"),
        "memcpy_gbps": reload.get("memcpy_gbps"),
        "score_err": error.get("score_err"),
        "preempt": preempt or None,
        "reload": reload or None,
        "precision": error or None,
    }


def _reasons(results: Sequence[tuple[Case, Result]], others: Mapping[str, Result], kind: str) -> list[dict[str, str]]:
    named = [*((case.name, result) for case, result in results), *others.items()]
    return [{"name": name, "why": str(result[kind])} for name, result in named if kind in result]


def _used(engine: Sequence[tuple[Case, Result]]) -> str:
    """Of the native cases where there are some: that is what "auto" would take."""
    ordered = sorted(engine, key=lambda one: one[0].kernel != NATIVE)
    return str(ordered[0][1]["kernel_used"]) if ordered else "none"


def _sizes(case: Case) -> tuple[str, int, int]:
    return case.model, case.tokens, case.threads


def _is_whole(result: Result) -> bool:
    return "skipped" not in result and "failed" not in result
