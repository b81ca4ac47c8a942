"""Made-up recommendations, told to a console as the services tell theirs: spans and metrics over OTLP.

Lengths and times are those of a plausible relay with a budget of 50 ms; what is shown of them can be computed
by hand. Spans have the names, kinds and attributes that services/ and relaygr/client give theirs.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Self

from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, set_span_in_context

from relaygr.telemetry import Telemetry, names

BUDGET_MS = 50.0
DUE_MS = 85.0
"""When ranking is asked for, from the start of the request."""
_NS = 1_000_000
_V1 = "relaygr.v1."


class Kind(Enum):
    """What happened to a request."""

    DEVICE = "psi was produced while retrieval ran"
    DRAM = "psi was reloaded from DRAM"
    JOINED = "ranking came while psi was in production"
    EARLIER = "psi was on the device from an earlier request"
    FALLBACK = "admitted, and the production failed"
    DECLINED = "declined for its footprint, ranked in full, late"
    NOT_AT_RISK = "no need of psi"
    ERROR = "the rank failed"


_DECISIONS = {Kind.DECLINED: ("DECLINED", "FOOTPRINT"), Kind.NOT_AT_RISK: ("NOT_AT_RISK", "FITS_BUDGET")}
_TIERS = {Kind.DEVICE: "DEVICE", Kind.DRAM: "DRAM", Kind.JOINED: "JOINED", Kind.EARLIER: "DEVICE"}
_FALLBACKS = {Kind.FALLBACK: "PRODUCTION_FAILED", Kind.DECLINED: "NO_TICKET", Kind.NOT_AT_RISK: "NO_TICKET"}
_COMPUTE_MS = {Kind.DECLINED: 62.0, Kind.FALLBACK: 41.0, Kind.NOT_AT_RISK: 19.0, Kind.JOINED: 6.0}
_COMPUTE_ON_PSI_MS = 5.8
_JOIN_MS = 4.0


@dataclass(kw_only=True)
class Told:
    """A request that was told."""

    trace_id: str
    request_id: str
    producer: Span | None = None
    """What made its psi."""
    span_ids: dict[str, str] = field(default_factory=dict)
    """By the end of the span's name; of a call, the server's."""


class Processes(AbstractContextManager["Processes"]):
    """The processes of a deployment, as far as a console hears of them; all is sent when it is left.

    Args:
        endpoint: OTLP, as http://127.0.0.1:4317.
        silent: services that send nothing.
    """

    def __init__(self, endpoint: str, silent: Collection[str] = ()) -> None:
        self._endpoint = endpoint
        self._silent = silent
        self._made: dict[tuple[str, str], Telemetry] = {}

    def of(self, service: str, instance: str) -> Telemetry:
        found = self._made.get((service, instance))
        if found is None:
            endpoint = None if service in self._silent else self._endpoint
            found = Telemetry.setup(f"relaygr-{service}", instance, endpoint, b"console-test")
            self._made[service, instance] = found
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for telemetry in self._made.values():
            telemetry.shutdown()


class Request:
    """One request being told; times in milliseconds from its start."""

    def __init__(self, processes: Processes, kind: Kind, ranker: str, start_ns: int | None, **more: Any) -> None:
        self._processes = processes
        self._kind = kind
        self._ranker = ranker
        self._compute_ms = more.get("compute_ms", _COMPUTE_MS.get(kind, _COMPUTE_ON_PSI_MS))
        self.end_ms = DUE_MS + self._compute_ms + 2.2 + (_JOIN_MS if kind is Kind.JOINED else 0.0)
        self._start_ns = time.time_ns() - int(self.end_ms * _NS) if start_ns is None else start_ns
        self._more = more
        self.told = Told(trace_id="", request_id=more.get("request_id") or f"r-{self._start_ns:x}")

    def span(
        self,
        where: tuple[str, str],
        name: str,
        begin_ms: float,
        end_ms: float,
        parent: Span | None,
        attributes: Mapping[str, Any] | None = None,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        links: Iterable[Link] = (),
        error: str = "",
    ) -> Span:
        span = self._processes.of(*where).tracer.start_span(
            name,
            context=set_span_in_context(parent) if parent is not None else None,
            kind=kind,
            attributes=attributes,
            links=list(links),
            start_time=self._start_ns + int(begin_ms * _NS),
        )
        if error:
            span.set_attribute(names.ATTR_ERROR, error)
            span.set_status(Status(StatusCode.ERROR, error))
        span.end(self._start_ns + int(end_ms * _NS))
        self.told.span_ids[name.removeprefix(_V1)] = f"{span.get_span_context().span_id:016x}"
        return span

    def call(
        self,
        source: tuple[str, str],
        target: tuple[str, str],
        method: str,
        begin_ms: float,
        end_ms: float,
        parent: Span,
        attributes: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> Span:
        """A call as both ends see it; gives the server's span."""
        rpc = {names.ATTR_RPC_SYSTEM_NAME: "grpc", names.ATTR_RPC_METHOD: _V1 + method}
        error = more.get("error", "")
        asked = self.span(source, _V1 + method, begin_ms, end_ms, parent, rpc, kind=SpanKind.CLIENT, error=error)
        served = {**rpc, names.ATTR_DEADLINE_REMAINING_MS: 500.0 - begin_ms, **(attributes or {})}
        return self.span(
            target, _V1 + method, begin_ms + 0.15, end_ms - 0.15, asked, served, kind=SpanKind.SERVER, **more
        )

    def tell(self) -> Told:
        client, trigger, router = ("client", "client"), ("trigger", "trigger-1"), ("router", "router-1")
        ranker = ("ranker", self._ranker)
        decision, reason = _DECISIONS.get(self._kind, ("ADMITTED", "AT_RISK"))
        is_error = self._kind is Kind.ERROR
        about = {
            names.ATTR_REQUEST_ID: self.told.request_id,
            names.ATTR_TRIGGER_DECISION: decision,
            names.ATTR_TRIGGER_REASON: reason,
            **({} if is_error else self._outcome()),
            **self._more.get("attributes", {}),
        }
        error = "DeadlineExceeded" if is_error else ""
        root = self.span(client, names.SPAN_RECOMMEND, 0.0, self.end_ms, None, about, error=error)
        self.told.trace_id = f"{root.get_span_context().trace_id:032x}"
        self._arrive(client, trigger, router, root, about)
        if decision == "ADMITTED":
            self._pre_infer(trigger, router, ranker, root)
        self._stage(client, self._more.get("stage", "retrieval"), 3.2, 61.0, root)
        self._stage(client, "pre-processing", 61.0, DUE_MS - 0.1, root)
        rank = self._stage(client, "rank", DUE_MS, self.end_ms, root, error)
        self._rank(client, router, ranker, rank, error)
        if follows_ms := self._more.get("follows_ms"):
            self.span(ranker, names.SPAN_PRE_INFER_SPILL, follows_ms, follows_ms + 12.0, root)
        return self.told

    def _stage(
        self, client: tuple[str, str], name: str, begin_ms: float, end_ms: float, root: Span, error: str = ""
    ) -> Span:
        attributes = {names.ATTR_RECOMMEND_STAGE: name}
        return self.span(client, names.SPAN_RECOMMEND_STAGE, begin_ms, end_ms, root, attributes, error=error)

    def _outcome(self) -> dict[str, Any]:
        return {
            names.ATTR_RANK_TIER: _TIERS.get(self._kind, "FULL"),
            names.ATTR_RANK_FALLBACK: _FALLBACKS.get(self._kind, ""),
        }

    def _arrive(
        self,
        client: tuple[str, str],
        trigger: tuple[str, str],
        router: tuple[str, str],
        root: Span,
        about: Mapping[str, Any],
    ) -> None:
        stage = self._stage(client, "arrive", 0.1, 3.0, root)
        arrive = self.call(client, trigger, "TriggerService/Arrive", 0.2, 2.9, stage)
        self.call(trigger, router, "RouterService/Resolve", 0.5, 1.6, arrive, {names.ATTR_ROUTE_BRANCH: "SLOT"})
        predicted = {
            names.ATTR_TRIGGER_FULL_MS: 58.4,
            names.ATTR_TRIGGER_RANK_ON_PSI_MS: 7.2,
            names.ATTR_TRIGGER_PRE_INFER_MS: 44.0,
            names.ATTR_TRIGGER_QUEUE_MS: 3.1,
            names.ATTR_TRIGGER_BUDGET_MS: self._more.get("budget_ms", BUDGET_MS),
            names.ATTR_TRIGGER_PSI_BYTES: 18 * 1024 * 1024,
            names.ATTR_INSTANCE_ID: self._ranker,
        }
        decided = {name: about[name] for name in (names.ATTR_TRIGGER_DECISION, names.ATTR_TRIGGER_REASON)}
        self.span(trigger, names.SPAN_TRIGGER_ADMISSION, 1.8, 2.1, arrive, {**predicted, **decided})

    def _pre_infer(
        self, trigger: tuple[str, str], router: tuple[str, str], ranker: tuple[str, str], root: Span
    ) -> None:
        acceptance = {Kind.EARLIER: "RESIDENT"}.get(self._kind, "STARTED")
        accepted = {names.ATTR_PRE_INFER_ACCEPTANCE: acceptance}
        sent = self.span(trigger, names.SPAN_TRIGGER_PRE_INFER, 2.3, 5.6, root, accepted)
        routed = self.call(trigger, router, "RouterService/PreInfer", 2.4, 5.5, sent)
        served = self.call(router, ranker, "RankerService/PreInfer", 3.0, 5.0, routed, accepted)
        if self._kind is Kind.EARLIER:
            return
        self._lookup(ranker, served)
        if self._kind is Kind.DRAM:
            tokens = {names.ATTR_PRE_INFER_TOKENS: 4096}
            self.told.producer = self.span(ranker, names.SPAN_PRE_INFER_RELOAD, 5.7, 7.8, served, tokens)
            return
        until_ms = DUE_MS + _JOIN_MS + 0.8 if self._kind is Kind.JOINED else 49.0
        failed = {names.ATTR_PRE_INFER_REASON: "dropped: device queue full"} if self._kind is Kind.FALLBACK else {}
        tokens = {names.ATTR_PRE_INFER_TOKENS: 4096, names.ATTR_PRE_INFER_FROM_TOKENS: 0, **failed}
        produced = self.span(ranker, names.SPAN_PRE_INFER_PRODUCE, 5.7, until_ms, served, tokens)
        self.span(ranker, names.SPAN_PRE_INFER_QUEUE, 5.7, 6.9, produced)
        third_ms = (until_ms - 6.9) / 3
        for number in range(3):
            begin_ms = 6.9 + number * third_ms
            tokens = {names.ATTR_PRE_INFER_TOKENS: 1365 * (number + 1)}
            self.span(ranker, names.SPAN_PRE_INFER_CHUNK, begin_ms, begin_ms + third_ms, produced, tokens)
        self.told.producer = produced

    def _lookup(self, ranker: tuple[str, str], served: Span) -> None:
        asked = self.span(ranker, names.SPAN_PRE_INFER_LOOKUP, 4.7, 5.6, served)
        outcome = {names.ATTR_DRAM_OUTCOME: "HIT" if self._kind is Kind.DRAM else "MISS"}
        self.call(ranker, ("expander", "expander-1"), "ExpanderService/Lookup", 4.8, 5.5, asked, outcome)

    def _rank(
        self, client: tuple[str, str], router: tuple[str, str], ranker: tuple[str, str], stage: Span, error: str
    ) -> None:
        begin_ms, end_ms = DUE_MS + 0.1, self.end_ms - 0.1
        routed = self.call(client, router, "RouterService/Rank", begin_ms, end_ms, stage, error=error)
        self.span(router, names.SPAN_ROUTE_CHOOSE, begin_ms + 0.2, begin_ms + 0.3, routed)
        producer = self._more.get("producer") or self.told.producer
        links = ()
        if producer is not None and not error and self._kind is not Kind.FALLBACK:
            links = (Link(producer.get_span_context(), {names.ATTR_LINK_KIND: "psi_producer"}),)
        answered = {
            names.ATTR_INSTANCE_ID: self._ranker,
            names.ATTR_RANK_PSI_TOKENS: 4096 if links else 0,
            names.ATTR_RANK_CANDIDATES: 512,
            names.ATTR_RANK_COMPUTE_MS: self._compute_ms,
            **self._outcome(),
        }
        served = self.call(
            router,
            ranker,
            "RankerService/Rank",
            begin_ms + 0.4,
            end_ms - 0.3,
            routed,
            {} if error else answered,
            links=links,
            error=error,
        )
        if error:
            return
        done_ms = end_ms - 0.6
        if self._kind is Kind.JOINED:
            join_end_ms = done_ms - self._compute_ms
            self.span(ranker, names.SPAN_RANK_JOIN, join_end_ms - _JOIN_MS, join_end_ms, served)
        self.span(ranker, names.SPAN_RANK_COMPUTE, done_ms - self._compute_ms, done_ms, served)


def tell(
    endpoint: str, *kinds: Kind, start_ns: int | None = None, silent: Collection[str] = (), **more: Any
) -> list[Told]:
    """Tell one request of each kind and send them; they ended just now unless a start is given.

    Args:
        endpoint: where to.
        kinds: what happened.
        start_ns: of all of them.
        silent: services that send nothing.
        more: `request_id`, `stage` (the name of retrieval's), `attributes` of the root, `producer` of psi
            from another trace, `compute_ms`, `budget_ms`, `follows_ms` (when psi is spilled behind
            the answer).
    """
    with Processes(endpoint, silent) as processes:
        return [
            Request(processes, kind, f"ranker-{1 + number % 2}", start_ns, **more).tell()
            for number, kind in enumerate(kinds)
        ]
