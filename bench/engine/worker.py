"""One measurement in a process of its own: `python -m bench.engine.worker JSON`.

The task comes as one argument, the result leaves as the last line of standard output.
The parent sets OMP_NUM_THREADS; nothing else of the process is shared.

    {"job": "case", "case": {...}, "seed": 1, "rounds": {...}}      see measure_case
    {"job": "machine"}                                              rates with its threads, noise, versions
    {"job": "score_error", "seed": 1, "trained": "DIR" or null}
    {"job": "noise"}                                                how quiet it is afterwards
    {"job": "reload" or "preempt", "is_quick": false}               see others.py
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import Any

import torch

from bench.engine import memory, peaks, score_error
from bench.engine.counting import append_work, dense_flops, full_work, prefix_work, prefix_work_naive, rank_work
from bench.engine.dense import DenseStack, bytes_needed, causal_mask
from bench.engine.machine import compute_versions
from bench.engine.shapes import APPEND_TOKENS, CANDIDATES, CANDIDATES_TYPICAL, DENSE, TORCH, Case
from bench.engine.statistics import rounded, summary
from bench.engine.steady import CALLS, steady
from bench.engine.subject import Subject, Unavailable, kernel_of, model_of, subject_of
from bench.engine.timing import Job, Measured, Rounds, interleaved

STEADY_S_MAX = 5.0
"""Fifty calls longer than this are left to the shorter cases."""

Result = dict[str, Any]


def main(arguments: list[str]) -> int:
    """Do the task and print its result."""
    task = json.loads(arguments[0])
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    print(json.dumps(perform(task)), flush=True)
    return 0


def perform(task: dict[str, Any]) -> Result:
    """The result of a task; {"skipped": why} when this build or machine cannot."""
    try:
        match task["job"]:
            case "case":
                return measure_case(Case(**task["case"]), task["seed"], Rounds(**task["rounds"]))
            case "machine":
                return machine()
            case "score_error":
                return score_error.measure(task["seed"], task["trained"])
            case "noise":
                return {"noise": peaks.noise()}
            case "reload" | "preempt" as name:
                # Imported here, because the memory of a case must not hold a service.
                from bench.engine import others

                return others.measure(name, is_quick=task["is_quick"])
    except Unavailable as reason:
        return {"skipped": str(reason)}
    raise AssertionError(f"no job {task['job']!r}")


def machine() -> Result:
    """Rates with this process's threads, how quiet the machine is, versions of what computes."""
    noise = peaks.noise()
    return {"rates": asdict(peaks.rates(torch.get_num_threads())), "noise": noise, "versions": compute_versions()}


def measure_case(case: Case, seed: int, rounds: Rounds) -> Result:
    """All figures of one case."""
    return _measure_dense(case, seed, rounds) if case.kernel == DENSE else _measure_engine(case, seed, rounds)


def _measure_engine(case: Case, seed: int, rounds: Rounds) -> Result:
    peak = peaks.GemmPeak()
    peak()
    model_before_mb = memory.rss_mb()
    subject = subject_of(case, seed)
    base_mb = memory.rss_mb()
    switches = memory.account().involuntary_switches
    measured = interleaved(engine_jobs(case, subject), peak, rounds)
    switches = memory.account().involuntary_switches - switches
    figures = _figures(measured)
    ranks = {str(count): figures.pop(f"rank{count}_ms") for count in CANDIDATES}
    naive = prefix_work_naive(case.shape, case.tokens).flops / prefix_work(case.shape, case.tokens).flops
    share = summary(measured.series["prefix"].shares).median
    return {
        "kernel_used": kernel_of(subject.model),
        **figures,
        "rank_ms": ranks,
        "prefix_of_peak": rounded(share),
        "prefix_of_peak_naive": rounded(share * naive),
        "rank512_of_peak": rounded(summary(measured.series["rank512"].shares).median),
        "involuntary_switches": switches,
        **_memory(base_mb, model_before_mb),
        **_steady(subject, figures, ranks[str(CANDIDATES[0])]),
        **_parts(subject),
    }


def engine_jobs(case: Case, subject: Subject) -> list[Job]:
    """The four jobs; the prefix comes first because the others need its psi."""
    shape, tokens = case.shape, case.tokens
    prefix_flops = prefix_work(shape, tokens).flops
    ranks = [
        Job(f"rank{count}", lambda count=count: subject.rank(count), rank_work(shape, tokens, count).flops)  # type: ignore[misc]
        for count in CANDIDATES
    ]
    return [
        Job("prefix", subject.prefix, prefix_flops),
        Job("prefix_chunked", subject.prefix_chunked, prefix_flops),
        Job("append64", subject.append, append_work(shape, tokens, APPEND_TOKENS).flops),
        Job("full", subject.full, full_work(shape, tokens, CANDIDATES_TYPICAL).flops),
        *ranks,
    ]


def _measure_dense(case: Case, seed: int, rounds: Rounds) -> Result:
    needed, available = bytes_needed(case.shape, case.tokens), memory.available_bytes()
    if needed > available / 2:
        return {"skipped": f"needs {needed / 2**30:.1f} GiB of {available / 2**30:.1f} GiB available"}
    peak = peaks.GemmPeak()
    peak()
    model_before_mb = memory.rss_mb()
    model = model_of(case.model, case.shape, seed, kernel=TORCH)
    generator = torch.Generator().manual_seed(seed)
    x_TD = torch.randn(case.tokens, case.shape.width, generator=generator).bfloat16()
    mask_TT = causal_mask(case.tokens)
    plain, lean = DenseStack(model), DenseStack(model, lean=True)
    base_mb = memory.rss_mb()
    flops = dense_flops(case.shape, case.tokens)
    jobs = [Job("dense", lambda: plain(x_TD, mask_TT), flops), Job("dense_lean", lambda: lean(x_TD, mask_TT), flops)]
    return {**_figures(interleaved(jobs, peak, rounds)), **_memory(base_mb, model_before_mb)}


def _figures(measured: Measured) -> Result:
    """Medians as NAME_ms, the peak, and each one's spread."""
    times = {f"{name}_ms": summary(series.times_ms) for name, series in measured.series.items()}
    peak = summary(measured.peaks_gflops)
    shares = {f"{name}_of_peak": summary(series.shares) for name, series in measured.series.items()}
    spread = {**times, "gemm_peak_gflops": peak, **shares}
    return {
        "gemm_peak_gflops": rounded(peak.median),
        **{name: rounded(series.median) for name, series in times.items()},
        "rounds": measured.rounds,
        "spread": {name: series.to_json() for name, series in spread.items()},
    }


def _memory(base_mb: float, model_before_mb: float) -> Result:
    """The peak; what the jobs and the pages added to a process that had loaded everything."""
    peak_mb = memory.peak_rss_mb()
    return {
        "peak_rss_mb": rounded(peak_mb),
        "added_rss_mb": rounded(peak_mb - base_mb),
        "model_rss_mb": rounded(base_mb - model_before_mb),
    }


def _steady(subject: Subject, figures: Result, rank_ms: float) -> Result:
    """What 50 ranks and 50 prefixes leave behind; None where they would take too long."""
    found: Result = {"minflt_per_rank": None, "minflt_per_prefix": None, "rss_growth_kb": None, "steady_calls": CALLS}
    jobs = {
        "minflt_per_rank": (rank_ms, lambda: subject.rank(CANDIDATES[0])),
        "minflt_per_prefix": (figures["prefix_ms"], subject.prefix),
    }
    for name, (call_ms, call) in jobs.items():
        if call_ms * CALLS < STEADY_S_MAX * 1e3:
            left = steady(call)
            found[name] = rounded(left.minor_faults_per_call)
            found["rss_growth_kb"] = left.rss_growth_kb + (found["rss_growth_kb"] or 0)
    return found


def _parts(subject: Subject) -> Result:
    """Nanoseconds of a prefix by part of a layer, summed over threads; only the native kernel counts them."""
    before = subject.model.part_ns()
    if not before:
        return {}
    subject.prefix()
    return {"part_ns": {name: value - before[name] for name, value in subject.model.part_ns().items()}}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
