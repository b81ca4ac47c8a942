"""What is said of a run: a table for people, one line for programs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.chaos.runner import Played

_HEAD = (
    "scenario",
    "requests",
    "answered",
    "refused",
    "wrong",
    "after fence",
    "P99 before / during / after, ms",
    "recovery, s",
    "leaks",
    "holds",
)


def row_of(played: Played) -> dict[str, Any]:
    """One scenario's figures; null where there is none."""
    verdict = played.verdict
    return {
        "requests": verdict.requests,
        "answered": verdict.answered,
        "refused": verdict.refused,
        "unanswered": verdict.unanswered,
        "late": verdict.late,
        "lag_ms": _rounded(verdict.lag_ms),
        "wrong_scores": verdict.wrong_scores,
        "errors": dict(verdict.errors),
        "errors_after_fence": verdict.errors_after_fence,
        "errors_after_return": verdict.errors_after_return,
        "in_flight": verdict.in_flight,
        **{f"p50_{phase}_ms": _rounded(verdict.p50_ms.get(phase)) for phase in ("before", "during", "after")},
        **{f"p99_{phase}_ms": _rounded(verdict.p99_ms.get(phase)) for phase in ("before", "during", "after")},
        "recovery_s": _rounded(verdict.recovery_s),
        "tier_back_s": _rounded(verdict.tier_back_s),
        "fault_s": _rounded(played.fault_s),
        "tiers": dict(verdict.tiers),
        "leaks": len(played.leaks),
        "left_behind": played.leaks,
        "log_errors": {name: count for name, count in played.log_errors.items() if count},
        "broken": played.broken,
        "unjudged": verdict.unjudged,
    }


def line_of(played: Sequence[Played], seed: int, seconds: float) -> dict[str, Any]:
    """The last line of a run."""
    return {
        "scenarios": {one.scenario.name: row_of(one) for one in played},
        "wrong_scores": sum(one.verdict.wrong_scores for one in played),
        "unanswered": sum(one.verdict.unanswered for one in played),
        "leaks": sum(len(one.leaks) for one in played),
        "broken": sum(len(one.broken) for one in played),
        "unjudged": sum(len(one.verdict.unjudged) for one in played),
        "seed": seed,
        "seconds": round(seconds, 1),
    }


def table_of(played: Sequence[Played]) -> str:
    """All scenarios, a line each."""
    rows = [_HEAD, *(_cells(one) for one in played)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _cells(played: Played) -> tuple[str, ...]:
    verdict = played.verdict
    p99 = " / ".join(_text(verdict.p99_ms.get(phase)) for phase in ("before", "during", "after"))
    counts = verdict.requests, verdict.answered, verdict.refused, verdict.wrong_scores, verdict.errors_after_fence
    ends = _text(verdict.recovery_s), str(len(played.leaks)), "no" if played.broken else "yes"
    return (played.scenario.name, *map(str, counts), p99, *ends)


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
