"""Says in one sentence what happened to a request, from its trace."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from demo.traces import Span
from relaygr.telemetry import names

_RANK_METHOD = "RankerService/Rank"


@dataclass(frozen=True, kw_only=True)
class Story:
    """The turning points of one relay."""

    start_unix_ns: int
    end_unix_ns: int
    tier: str
    """DEVICE, DRAM, JOINED or FULL; empty when nothing was ranked."""
    fallback: str
    decision: str
    """ADMITTED, NOT_AT_RISK or DECLINED; empty when the trigger was not asked."""
    psi_tokens: int
    rank: Span | None
    """The rank as the ranker served it."""
    production: Span | None
    """What made psi ready, when it happened within this trace."""


def story_of(spans: Sequence[Span]) -> Story:
    """Read the turning points out of a trace."""
    rank = next(iter(_named(spans, _RANK_METHOD, "SERVER")), None)
    production = max(_named(spans, names.SPAN_PRE_INFER_PRODUCE), key=lambda span: span.end_unix_ns, default=None)
    return Story(
        start_unix_ns=min(span.start_unix_ns for span in spans),
        end_unix_ns=max(span.end_unix_ns for span in spans),
        tier=_found(spans, names.ATTR_RANK_TIER),
        fallback=_found(spans, names.ATTR_RANK_FALLBACK),
        decision=_found(spans, names.ATTR_TRIGGER_DECISION),
        psi_tokens=int(_found(spans, names.ATTR_RANK_PSI_TOKENS) or 0),
        rank=rank,
        production=production,
    )


def sentence(spans: Sequence[Span]) -> str:
    """What happened, for a reader who has never seen a trace."""
    story = story_of(spans)
    if story.rank is None:
        return f"{spans[0].name}: no ranking in this trace."
    took = f"ranking took {_ms(story.rank.end_unix_ns - story.rank.start_unix_ns)}"
    if story.tier == "FULL":
        return f"Ranked by full inference ({_why_full(story)}); {took}."
    held = f"psi of {story.psi_tokens} tokens"
    if story.production is None:
        return f"{held[0].upper()}{held[1:]} was on the device from an earlier request; {took}."
    ahead_ns = story.rank.start_unix_ns - story.production.end_unix_ns
    source = "reloaded from DRAM" if story.tier == "DRAM" else "inferred"
    if ahead_ns >= 0:
        return f"{held[0].upper()}{held[1:]} was {source} and ready {_ms(ahead_ns)} before ranking came; {took}."
    return f"Ranking came while {held} was being {source}, and waited for it: ready {_ms(-ahead_ns)} later; {took}."


def _why_full(story: Story) -> str:
    if story.decision == "NOT_AT_RISK":
        return "not at risk, so no psi was asked for"
    if story.decision == "DECLINED":
        return "at risk, but the trigger declined"
    return f"no psi: {story.fallback.lower().replace('_', ' ') or 'no reason given'}"


def _named(spans: Iterable[Span], ending: str, kind: str = "") -> list[Span]:
    return [span for span in spans if span.name.endswith(ending) and kind in ("", span.kind)]


def _found(spans: Iterable[Span], attribute: str) -> str:
    return str(next((span.attributes[attribute] for span in spans if attribute in span.attributes), ""))


def _ms(length_ns: int) -> str:
    return f"{length_ns / 1e6:.1f} ms"
