"""The run in two tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

CASE_COLUMNS = (
    ("gemm", "gemm_peak_gflops"),
    ("prefix", "prefix_ms"),
    ("of peak", "prefix_of_peak"),
    ("dense", "dense_ms"),
    ("speed-up", "speedup_dense"),
    ("full", "full_ms"),
    ("append", "append64_ms"),
    ("peak MB", "peak_rss_mb"),
)


def print_summary(document: Mapping[str, Any], out: TextIO) -> None:
    """Cases, then targets with their verdicts."""
    header = ["model", "tokens", "threads", "kernel", *(title for title, _ in CASE_COLUMNS), "rank 128/512/2048"]
    rows = [_case_row(case) for case in document["cases"]]
    _print_table([header, *rows], out)
    print(file=out)
    titles = ["figure", "case", "measured", "expected", "by count", "target", "goal", ""]
    _print_table([titles, *(_target_row(target) for target in document["targets"])], out)


def number(value: float | None) -> str:
    """Three digits that matter, or a dash."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def limit(target: Mapping[str, Any], name: str) -> str:
    """A target or goal with its direction."""
    return "" if target[name] is None else f"{'>=' if target['is_floor'] else '<='} {number(target[name])}"


def _case_row(case: Mapping[str, Any]) -> list[str]:
    sizes = [str(case[name]) for name in ("model", "tokens", "threads", "kernel")]
    ranks = "/".join(number(value) for value in case["rank_ms"].values())
    return [*sizes, *(number(case[name]) for _, name in CASE_COLUMNS), ranks]


def _target_row(target: Mapping[str, Any]) -> list[str]:
    figures = [number(target[name]) for name in ("measured", "expected", "by_count")]
    limits = [limit(target, "target"), limit(target, "goal")]
    return [target["figure"], target["case"], *figures, *limits, target["verdict"]]


def _print_table(rows: Sequence[Sequence[str]], out: TextIO) -> None:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), file=out)
