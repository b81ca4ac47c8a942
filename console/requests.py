"""What is known of each request, which of them a filter shows, and what the last minute was like. No input or output.

Source: design, section 7.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from console.completeness import missing_spans
from console.story import Story, sentence, story_of
from console.traces import Span

WINDOW_S = 60
"""Of the overview."""
_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Row:
    """One request."""

    trace_id: str
    story: Story
    sentence: str
    missing: tuple[str, ...]
    """Spans that its trace should have and has not."""

    @property
    def is_late(self) -> bool:
        """Ranking took more than its budget."""
        return self.story.spare_ns is not None and self.story.spare_ns < 0

    @property
    def end_to_end_ns(self) -> int:
        """From its start to its answer."""
        return self.story.answered_unix_ns - self.story.start_unix_ns

    def to_json(self) -> dict[str, Any]:
        """As the page reads it."""
        story = self.story
        return {
            "trace_id": self.trace_id,
            "request_id": story.request_id,
            "started_unix_ms": story.start_unix_ns // 1_000_000,
            "rank_ms": _ms(story.rank_ns),
            "end_to_end_ms": _ms(self.end_to_end_ns),
            "budget_ms": _ms(story.budget_ns),
            "spare_ms": _ms(story.spare_ns),
            "is_late": self.is_late,
            "is_error": bool(story.error),
            "tier": story.tier,
            "decision": story.decision or "UNKNOWN",
            "reason": story.reason,
            "fallback": story.fallback,
            "instance": story.instance,
            "sentence": self.sentence,
            "missing": list(self.missing),
        }


FILTERS: dict[str, Callable[[Row], bool]] = {
    "all": lambda row: True,
    "slow": lambda row: row.is_late,
    "fallback": lambda row: row.story.tier == "FULL" and row.story.decision not in ("NOT_AT_RISK", "DECLINED"),
    "declined": lambda row: row.story.decision == "DECLINED",
    "error": lambda row: bool(row.story.error),
}
"""`slow` is over the budget; `fallback` was ranked in full though nobody had decided so."""


def row_of(trace_id: str, spans: Sequence[Span]) -> Row:
    """Of a request's trace, spans in order of start."""
    story = story_of(spans)
    return Row(trace_id, story, sentence(spans), tuple(missing_spans(spans, story)))


class RequestBook:
    """Rows by trace; how many is the owner's business, who gives traces up."""

    def __init__(self) -> None:
        self._rows: OrderedDict[str, Row] = OrderedDict()

    def put(self, row: Row) -> None:
        """Know a request, or know it better."""
        self._rows[row.trace_id] = row

    def drop(self, trace_id: str) -> None:
        """Its trace was given up."""
        self._rows.pop(trace_id, None)

    def get(self, trace_id: str) -> Row | None:
        """None when it is not known."""
        return self._rows.get(trace_id)

    def slowest(self) -> Row | None:
        """Of those that were ranked, the one that waited longest for it."""
        ranked = [row for row in self._rows.values() if row.story.rank_ns is not None]
        return max(ranked, key=lambda row: row.story.rank_ns or 0, default=None)

    def shown(self, filter_name: str, limit: int) -> list[Row]:
        """Newest first.

        Raises:
            KeyError: no such filter.
        """
        is_shown = FILTERS[filter_name]
        newest = sorted(self._rows.values(), key=lambda row: row.story.start_unix_ns, reverse=True)
        return [row for row in newest if is_shown(row)][:limit]

    def overview(self, now_unix_ns: int) -> dict[str, Any]:
        """The last minute, by the time of the answer."""
        begin_ns = now_unix_ns - WINDOW_S * _NS
        rows = [row for row in self._rows.values() if begin_ns < row.story.answered_unix_ns <= now_unix_ns]
        admitted = [row for row in rows if row.story.decision == "ADMITTED" and row.story.tier]
        budgets = [row.story.budget_ns for row in rows if row.story.budget_ns is not None]
        return {
            "requests": {
                "count": len(rows),
                "rate_hz": round(len(rows) / WINDOW_S, 3),
                "late": sum(row.is_late for row in rows),
                "errors": sum(bool(row.story.error) for row in rows),
                "by_tier": _counts(row.story.tier for row in rows),
                "by_decision": _counts(row.story.decision or "UNKNOWN" for row in rows),
                "declined_reasons": _counts(row.story.reason for row in rows if row.story.decision == "DECLINED"),
                "fallbacks": _counts(row.story.fallback for row in rows),
            },
            "latency_ms": {
                "budget": _ms(budgets[-1]) if budgets else None,
                "rank": _quantiles(row.story.rank_ns for row in rows),
                "end_to_end": _quantiles(row.end_to_end_ns for row in rows if row.story.rank is not None),
            },
            "survival": {"admitted": len(admitted), "survived": sum(row.story.tier != "FULL" for row in admitted)},
            "history": _history(rows, now_unix_ns),
        }


def _history(rows: Iterable[Row], now_unix_ns: int) -> list[dict[str, Any]]:
    """A point a second, oldest first."""
    last_s = now_unix_ns // _NS
    seconds: dict[int, list[Row]] = {second: [] for second in range(last_s - WINDOW_S + 1, last_s + 1)}
    for row in rows:
        of_second = seconds.get(row.story.answered_unix_ns // _NS)
        if of_second is not None:
            of_second.append(row)
    return [_point(second, found) for second, found in seconds.items()]


def _point(second: int, rows: Sequence[Row]) -> dict[str, Any]:
    rank = _quantiles(row.story.rank_ns for row in rows)
    return {
        "at_unix_ms": second * 1000,
        "count": len(rows),
        "p50_ms": rank["p50"],
        "p99_ms": rank["p99"],
        "by_tier": _counts(row.story.tier for row in rows),
    }


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(value for value in values if value))


def _quantiles(values_ns: Iterable[int | None]) -> dict[str, Any]:
    """The least that so many of them do not exceed: a quantile that somebody saw."""
    ordered = sorted(value for value in values_ns if value is not None)
    if not ordered:
        return {"p50": None, "p99": None, "count": 0}
    p50, p99 = (ordered[math.ceil(share * len(ordered)) - 1] for share in (0.5, 0.99))
    return {"p50": _ms(p50), "p99": _ms(p99), "count": len(ordered)}


def _ms(length_ns: int | None) -> float | None:
    return None if length_ns is None else round(length_ns / 1e6, 3)
