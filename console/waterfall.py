"""A trace as lanes of bars, one lane a process: what the page, the terminal and the written pages draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from console.story import Story, story_of
from console.traces import Span
from relaygr.telemetry import names

LANES = ("client", "load", "demo", "trigger", "router", "ranker", "expander")
"""From top to bottom; others come last."""
KINDS = {
    names.SPAN_RECOMMEND_STAGE: "stage",
    names.SPAN_TRIGGER_ADMISSION: "admission",
    names.SPAN_PRE_INFER_PRODUCE: "pre_infer",
    names.SPAN_PRE_INFER_CHUNK: "pre_infer",
    names.SPAN_PRE_INFER_QUEUE: "queue",
    names.SPAN_PRE_INFER_RELOAD: "reload",
    names.SPAN_PRE_INFER_LOOKUP: "lookup",
    names.SPAN_PRE_INFER_SPILL: "store",
    names.SPAN_RANK_QUEUE: "queue",
    names.SPAN_RANK_JOIN: "join",
    names.SPAN_RANK_COMPUTE: "compute",
}
_RANK_METHOD = "RankerService/Rank"


@dataclass(frozen=True, slots=True)
class Bar:
    """One span."""

    span: Span
    label: str
    kind: str
    start_ms: float
    length_ms: float


@dataclass(frozen=True, slots=True)
class Lane:
    """One process."""

    name: str
    kind: str
    bars: tuple[Bar, ...]
    """By start; each has a row of its own."""


@dataclass(frozen=True, slots=True)
class Arrow:
    """From what produced psi to the rank that used it."""

    from_trace_id: str
    from_span_id: str
    to_span_id: str


@dataclass(frozen=True, slots=True)
class Waterfall:
    """A trace, in milliseconds from its start."""

    story: Story
    lanes: tuple[Lane, ...]
    arrows: tuple[Arrow, ...]
    length_ms: float
    rank_due_ms: float | None
    """When its caller asked for the ranking."""
    deadline_ms: float | None
    """The end of ranking's budget."""


def waterfall_of(spans: Sequence[Span]) -> Waterfall:
    """Lay out a trace; spans in order of start."""
    story = story_of(spans)
    due_ms = None if story.rank is None else _ms(story.rank.start_unix_ns - story.start_unix_ns)
    budget_ms = None if story.budget_ns is None else _ms(story.budget_ns)
    return Waterfall(
        story=story,
        lanes=_lanes(spans, story.start_unix_ns),
        arrows=_arrows(spans, story),
        length_ms=_ms(story.end_unix_ns - story.start_unix_ns),
        rank_due_ms=due_ms,
        deadline_ms=None if due_ms is None or budget_ms is None else round(due_ms + budget_ms, 3),
    )


def to_json(waterfall: Waterfall) -> dict[str, Any]:
    """Without the story."""
    return {
        "length_ms": waterfall.length_ms,
        "rank_due_ms": waterfall.rank_due_ms,
        "deadline_ms": waterfall.deadline_ms,
        "lanes": [
            {"name": lane.name, "kind": lane.kind, "bars": [_bar_json(bar) for bar in lane.bars]}
            for lane in waterfall.lanes
        ],
        "links": [
            {"from_trace_id": one.from_trace_id, "from_span_id": one.from_span_id, "to_span_id": one.to_span_id}
            for one in waterfall.arrows
        ],
    }


def label_of(span: Span) -> str:
    """The span's name without what all names share; of a stage, the stage's own."""
    stage = str(span.attributes.get(names.ATTR_RECOMMEND_STAGE, ""))
    return stage or span.name.removeprefix("relaygr.").removeprefix("v1.")


def lane_kind(span: Span) -> str:
    """Trigger of relaygr-trigger."""
    return span.service.removeprefix("relaygr-").split("-")[0]


def kind_of(span: Span) -> str:
    """What a bar is drawn as."""
    if span.name.endswith(_RANK_METHOD) and span.kind == "SERVER":
        return "rank"
    if span.kind in ("SERVER", "CLIENT"):
        return "call"
    return KINDS.get(span.name, "other")


def _lanes(spans: Sequence[Span], start_unix_ns: int) -> tuple[Lane, ...]:
    groups: dict[str, list[Span]] = {}
    for span in spans:
        groups.setdefault(span.instance or span.service, []).append(span)

    def place(name: str) -> tuple[int, str]:
        kind = lane_kind(groups[name][0])
        return (LANES.index(kind) if kind in LANES else len(LANES), name)

    return tuple(
        Lane(name, lane_kind(groups[name][0]), tuple(_bar(span, start_unix_ns) for span in groups[name]))
        for name in sorted(groups, key=place)
    )


def _bar(span: Span, start_unix_ns: int) -> Bar:
    return Bar(span, label_of(span), kind_of(span), _ms(span.start_unix_ns - start_unix_ns), _ms(span.length_ns))


def _arrows(spans: Sequence[Span], story: Story) -> tuple[Arrow, ...]:
    """From the end of the production rather than of the call that asked for it, where both are in the trace."""
    made = {story.production.parent_span_id: story.production.span_id} if story.production else {}
    return tuple(
        Arrow(link.trace_id, made.get(link.span_id, link.span_id), span.span_id)
        for span in spans
        if span.name.endswith(_RANK_METHOD) or span.name == names.SPAN_RANK_COMPUTE
        for link in span.links
    )


def _bar_json(bar: Bar) -> dict[str, Any]:
    return {
        "span_id": bar.span.span_id,
        "parent_span_id": bar.span.parent_span_id,
        "name": bar.span.name,
        "label": bar.label,
        "kind": bar.kind,
        "start_ms": bar.start_ms,
        "length_ms": bar.length_ms,
        "is_error": bar.span.is_error,
        "attributes": bar.span.attributes,
    }


def _ms(length_ns: int) -> float:
    return round(length_ns / 1e6, 3)
