"""Which spans a request's trace must have, by what happened to it, and which of them are absent."""

from __future__ import annotations

from collections.abc import Sequence

from console.story import Story
from console.traces import Span
from relaygr.telemetry import names

_RELAYED = ("RouterService/PreInfer", "RankerService/PreInfer")


def missing_spans(spans: Sequence[Span], story: Story) -> list[str]:
    """Endings of names, with the kind behind a slash for calls; empty when the trace is whole."""
    there = {(span.name.removeprefix("relaygr.v1."), span.kind) for span in spans}
    return [f"{name} {kind}" for name, kind in _expected(spans, story) if (name, kind) not in there]


def _expected(spans: Sequence[Span], story: Story) -> list[tuple[str, str]]:
    expected: list[tuple[str, str]] = []
    if any(span.name == names.SPAN_RECOMMEND for span in spans):
        expected += [(names.SPAN_RECOMMEND, "INTERNAL"), ("RouterService/Rank", "CLIENT")]
    if story.decision not in ("", "UNKNOWN"):
        expected += [("TriggerService/Arrive", "SERVER"), (names.SPAN_TRIGGER_ADMISSION, "INTERNAL")]
        expected += [("RouterService/Resolve", "SERVER")]
    if story.decision == "ADMITTED":
        expected += [(names.SPAN_TRIGGER_PRE_INFER, "INTERNAL"), *((name, "SERVER") for name in _RELAYED)]
        expected += _production(spans)
    if story.tier:
        expected += [("RouterService/Rank", "SERVER"), (names.SPAN_ROUTE_CHOOSE, "INTERNAL")]
        expected += [("RankerService/Rank", "SERVER"), (names.SPAN_RANK_COMPUTE, "INTERNAL")]
    return expected


def _production(spans: Sequence[Span]) -> list[tuple[str, str]]:
    """Of a pre-infer that started one: psi is computed with its chunks, or reloaded, or both."""
    acceptances = {span.attributes.get(names.ATTR_PRE_INFER_ACCEPTANCE) for span in spans}
    there = {span.name for span in spans}
    if "STARTED" not in acceptances or names.SPAN_PRE_INFER_RELOAD in there:
        return []
    return [(name, "INTERNAL") for name in (names.SPAN_PRE_INFER_PRODUCE, names.SPAN_PRE_INFER_CHUNK)]
