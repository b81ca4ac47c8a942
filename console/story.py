"""What happened to a request: read out of its trace, and said in one sentence.

The question is always the same: did the baton arrive in time, from which tier, and if not, why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from console.traces import Span
from relaygr.telemetry import names

RANK_STAGE, VERIFY_STAGE = "rank", "verify"
_RANKER_RANK, _ROUTER_RANK = "RankerService/Rank", "RouterService/Rank"
_ARRIVE = "TriggerService/Arrive"


@dataclass(frozen=True, kw_only=True)
class Story:
    """The turning points of one relay."""

    start_unix_ns: int
    end_unix_ns: int
    """Of the last span, also of work that goes on behind the answer."""
    answered_unix_ns: int
    """When its caller had the answer; the end of the last span when nothing was ranked."""
    request_id: str
    tier: str
    """DEVICE, DRAM, JOINED or FULL; empty when nothing was ranked."""
    fallback: str
    decision: str
    """ADMITTED, NOT_AT_RISK or DECLINED; empty when the trigger was not asked."""
    reason: str
    psi_tokens: int
    budget_ns: int | None
    """Ranking's, as the trigger applied it; None when it was not asked."""
    instance: str
    error: str
    """Class of what ended the request; empty when it was answered."""
    rank: Span | None
    """The rank as its caller saw it: the client's stage, else what the router, else what the ranker served."""
    served: Span | None
    """The rank as the ranker served it."""
    production: Span | None
    """What made psi ready, when it happened within this trace."""
    reload: Span | None

    @property
    def rank_ns(self) -> int | None:
        """How long its caller waited for the ranking."""
        return None if self.rank is None else self.rank.length_ns

    @property
    def spare_ns(self) -> int | None:
        """What was left of the budget; negative when it was exceeded, None when either is unknown."""
        return None if self.rank_ns is None or self.budget_ns is None else self.budget_ns - self.rank_ns


def is_request(spans: Iterable[Span]) -> bool:
    """True for the trace of a recommendation, not of a health check or a question of an operator."""
    return any(span.name == names.SPAN_RECOMMEND or span.name.endswith((_ROUTER_RANK, _ARRIVE)) for span in spans)


def story_of(spans: Sequence[Span]) -> Story:
    """Read the turning points out of a trace."""
    served = _first(spans, lambda span: span.name.endswith(_RANKER_RANK) and span.kind == "SERVER" and _is_own(span))
    rank = _rank_of(spans) or served
    reload = _last(spans, names.SPAN_PRE_INFER_RELOAD)
    produced = _last(spans, names.SPAN_PRE_INFER_PRODUCE)
    end_unix_ns = max(span.end_unix_ns for span in spans)
    budget_ms = _found(spans, names.ATTR_TRIGGER_BUDGET_MS)
    return Story(
        start_unix_ns=min(span.start_unix_ns for span in spans),
        end_unix_ns=end_unix_ns,
        answered_unix_ns=rank.end_unix_ns if rank else end_unix_ns,
        request_id=_found(spans, names.ATTR_REQUEST_ID),
        tier=_found_in(served, spans, names.ATTR_RANK_TIER),
        fallback=_found_in(served, spans, names.ATTR_RANK_FALLBACK),
        decision=_found(spans, names.ATTR_TRIGGER_DECISION),
        reason=_found(spans, names.ATTR_TRIGGER_REASON),
        psi_tokens=int(_found_in(served, spans, names.ATTR_RANK_PSI_TOKENS) or 0),
        budget_ns=int(float(budget_ms) * 1e6) if budget_ms else None,
        instance=_found_in(served, (), names.ATTR_INSTANCE_ID) or (served.instance if served else ""),
        error=_error_of(spans, rank),
        rank=rank,
        served=served,
        production=produced or reload,
        reload=reload,
    )


def sentence(spans: Sequence[Span]) -> str:
    """What happened, for a reader who has never seen a trace."""
    story = story_of(spans)
    if story.rank is None:
        return _unranked(story, spans)
    if story.error:
        return f"Failed: {story.error} after {_ms(story.rank.length_ns)}{_spare(story)}."
    if not story.tier:
        return f"Ranked in {_ms(story.rank.length_ns)}{_spare(story)}; the ranker's spans have not come."
    baton = _in_full(story) if story.tier == "FULL" else f"{_baton(story)}, ranked"
    return f"{baton} in {_ms(story.rank.length_ns)}{_spare(story)}."


def _unranked(story: Story, spans: Sequence[Span]) -> str:
    if story.error:
        return f"Failed: {story.error}; nothing was ranked."
    if story.decision:
        return f"{_decided(story)}; no ranking came."
    return f"{spans[0].name}: no ranking in this trace."


def _in_full(story: Story) -> str:
    if story.decision in ("DECLINED", "NOT_AT_RISK"):
        return f"{_decided(story)}, ranked in full"
    return f"No psi ({_words(story.fallback) or 'no reason given'}), ranked in full"


def _decided(story: Story) -> str:
    match story.decision:
        case "DECLINED":
            return f"Declined: {_words(story.reason) or 'no reason given'}"
        case "NOT_AT_RISK":
            return "Not at risk"
        case other:
            return other.capitalize() or "The trigger gave no decision"


def _baton(story: Story) -> str:
    """Where psi came from, and whether it was there when ranking came."""
    psi = f"psi of {story.psi_tokens:,} tokens"
    if story.production is None:
        return f"{psi[0].upper()}{psi[1:]} was on the device from an earlier request"
    took = _ms(story.production.length_ns)
    if story.reload is not None:
        how = f"reloaded from DRAM in {_ms(story.reload.length_ns)}"
        if story.production is not story.reload:
            how += f" and extended in {took}"
    else:
        how = f"produced in {took}"
    came = story.served.start_unix_ns if story.served else story.rank.start_unix_ns if story.rank else 0
    ahead_ns = came - story.production.end_unix_ns
    when = f"ready {_ms(ahead_ns)} before ranking came" if ahead_ns >= 0 else f"ranking waited {_ms(-ahead_ns)} for it"
    return f"{psi[0].upper()}{psi[1:]} {how}, {when}"


def _spare(story: Story) -> str:
    if story.spare_ns is None:
        return ""
    if story.spare_ns >= 0:
        return f", {_ms(story.spare_ns)} to spare"
    return f", {_ms(-story.spare_ns)} over"


def _rank_of(spans: Sequence[Span]) -> Span | None:
    """The rank as seen from outside, from as far outside as the trace goes."""
    views: tuple[Callable[[Span], bool], ...] = (
        lambda span: span.attributes.get(names.ATTR_RECOMMEND_STAGE) == RANK_STAGE,
        lambda span: span.name.endswith(_ROUTER_RANK) and span.kind == "CLIENT",
        lambda span: span.name.endswith(_ROUTER_RANK) and span.kind == "SERVER",
    )
    return next((span for view in views if (span := _first(spans, view)) is not None), None)


def _is_own(span: Span) -> bool:
    """False for a second rank, made to verify the first one's scores."""
    return span.attributes.get(names.ATTR_RANK_FALLBACK) != "BYPASSED"


def _error_of(spans: Sequence[Span], rank: Span | None) -> str:
    """A request has failed when its root or its rank says so; what failed and was got over is not its error."""
    root = _first(spans, lambda span: not span.parent_span_id)
    if not any(span is not None and span.is_error for span in (root, rank)):
        return ""
    named = (_found(reversed(spans), names.ATTR_ERROR), _found(reversed(spans), names.ATTR_ERROR_TYPE))
    return next((name for name in named if name), "an error")


def _first(spans: Iterable[Span], wanted: Callable[[Span], bool]) -> Span | None:
    return next((span for span in spans if wanted(span)), None)


def _last(spans: Iterable[Span], name: str) -> Span | None:
    return max((span for span in spans if span.name == name), key=lambda span: span.end_unix_ns, default=None)


def _found(spans: Iterable[Span], attribute: str) -> str:
    return str(next((span.attributes[attribute] for span in spans if span.attributes.get(attribute)), ""))


def _found_in(first: Span | None, spans: Iterable[Span], attribute: str) -> str:
    """Of one span when it is there, else of any."""
    return str(first.attributes.get(attribute) or "") if first is not None else _found(spans, attribute)


def _words(constant: str) -> str:
    return constant.lower().replace("_", " ")


def _ms(length_ns: int) -> str:
    return f"{length_ns / 1e6:.1f} ms"
