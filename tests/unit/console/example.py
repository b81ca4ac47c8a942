"""Made-up spans: a relay as its services tell of it, and what tests change about it."""

from __future__ import annotations

from console.traces import Link, Span
from relaygr.telemetry import names

MS = 1_000_000


def span(
    span_id: str, parent: str = "", *, trace: str = "t1", name: str = "work", start: int = 0, end: int = 1, **more
):
    return Span(
        trace_id=trace,
        span_id=span_id,
        parent_span_id=parent,
        name=name,
        kind=more.get("kind", "INTERNAL"),
        service=more.get("service", "relaygr-ranker"),
        instance=more.get("instance", "ranker-1"),
        start_unix_ns=start * MS,
        end_unix_ns=end * MS,
        attributes=more.get("attributes", {}),
        links=more.get("links", ()),
        is_error=more.get("is_error", False),
    )


def rpc(span_id: str, parent: str, method: str, kind: str, start: int, end: int, service: str, **more) -> Span:
    name = f"relaygr.v1.{method}"
    return span(span_id, parent, name=name, kind=kind, start=start, end=end, service=f"relaygr-{service}", **more)


def inner(span_id: str, parent: str, name: str, start: int, end: int, service: str, **more) -> Span:
    return span(span_id, parent, name=name, start=start, end=end, service=f"relaygr-{service}", **more)


def trigger(decision: str = "ADMITTED", reason: str = "AT_RISK", budget_ms: float = 50.0) -> list[Span]:
    """A client's Arrive, answered after 3 ms."""
    said = {names.ATTR_TRIGGER_DECISION: decision, names.ATTR_TRIGGER_REASON: reason}
    said |= {names.ATTR_TRIGGER_BUDGET_MS: budget_ms}
    return [
        rpc("arrive", "root", "TriggerService/Arrive", "SERVER", 1, 3, "trigger", instance="trigger-1"),
        inner(
            "admission", "arrive", names.SPAN_TRIGGER_ADMISSION, 1, 2, "trigger", attributes=said, instance="trigger-1"
        ),
        rpc("resolve", "arrive", "RouterService/Resolve", "SERVER", 1, 2, "router", instance="router-1"),
    ]


def pre_infer(end: int, acceptance: str = "STARTED") -> list[Span]:
    """From the trigger's word to where psi is produced, until `end`."""
    accepted = {names.ATTR_PRE_INFER_ACCEPTANCE: acceptance}
    spans = [
        inner(
            "sent", "arrive", names.SPAN_TRIGGER_PRE_INFER, 3, 6, "trigger", attributes=accepted, instance="trigger-1"
        ),
        rpc("routed", "sent", "RouterService/PreInfer", "SERVER", 3, 6, "router", instance="router-1"),
        rpc("asked", "routed", "RankerService/PreInfer", "SERVER", 4, 5, "ranker", attributes=accepted),
    ]
    if acceptance != "STARTED":
        return spans
    return [
        *spans,
        inner("made", "asked", names.SPAN_PRE_INFER_PRODUCE, 5, end, "ranker"),
        inner("chunk", "made", names.SPAN_PRE_INFER_CHUNK, 6, end, "ranker"),
    ]


def reload(begin: int, end: int) -> Span:
    return inner("reloaded", "asked", names.SPAN_PRE_INFER_RELOAD, begin, end, "ranker")


def ranked(start: int, end: int, tier: str, fallback: str = "", psi_tokens: int = 0, producer: Link | None = None):
    """The client's stage, the two hops and the compute, which takes all but 2 ms."""
    about = {names.ATTR_RANK_TIER: tier, names.ATTR_RANK_FALLBACK: fallback, names.ATTR_RANK_PSI_TOKENS: psi_tokens}
    about |= {names.ATTR_INSTANCE_ID: "ranker-1", names.ATTR_REQUEST_ID: "request-1"}
    stage = {names.ATTR_RECOMMEND_STAGE: "rank"}
    links = (producer,) if producer else ()
    return [
        inner("stage", "root", names.SPAN_RECOMMEND_STAGE, start, end, "client", attributes=stage, instance="client"),
        rpc("call", "stage", "RouterService/Rank", "CLIENT", start, end, "client", instance="client"),
        rpc("route", "call", "RouterService/Rank", "SERVER", start, end, "router", instance="router-1"),
        inner("choose", "route", names.SPAN_ROUTE_CHOOSE, start, start + 1, "router", instance="router-1"),
        rpc("rank", "route", "RankerService/Rank", "SERVER", start + 1, end, "ranker", attributes=about, links=links),
        inner("compute", "rank", names.SPAN_RANK_COMPUTE, start + 1, end - 1, "ranker"),
    ]


def root(end: int, **more) -> Span:
    return inner("root", "", names.SPAN_RECOMMEND, 0, end, "client", instance="client", **more)


def ordered(*spans: Span) -> list[Span]:
    return sorted(spans, key=lambda one: (one.start_unix_ns, one.span_id))


def relay(ready: int = 25, start: int = 60, end: int = 68, *, tier: str = "DEVICE") -> list[Span]:
    """Admitted, produced by `ready`, ranked from `start` to `end`, milliseconds."""
    producer = Link(trace_id="t1", span_id="asked")
    return ordered(
        root(end), *trigger(), *pre_infer(ready), *ranked(start, end, tier, psi_tokens=1203, producer=producer)
    )
