"""One recommendation request, from its arrival to its ranking.

Source: design, section 3 (client library), invariant I7.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Self

from opentelemetry import trace
from opentelemetry.trace import Span

from relaygr.behaviours.columns import Candidates, Cross
from relaygr.client.calls import Calls
from relaygr.client.histories import BehavioursLike, Window, behaviours_of, candidates_of, cross_of
from relaygr.client.numbers import SECONDS_MAX, whole
from relaygr.client.ranking import Ranking, ranking_of, score_difference
from relaygr.errors import RelayError
from relaygr.rpc.enums import name_of
from relaygr.telemetry import Telemetry, names
from relaygr.v1.common_pb2 import History
from relaygr.v1.ranker_pb2 import RankRequest
from relaygr.v1.trigger_pb2 import ArriveResponse, Decision, DecisionReason

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

RELEASE_TIMEOUT_S = 0.2
"""A reservation that cannot be given back in this time ends with its window."""


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """What a client's relays have in common."""

    calls: Calls
    telemetry: Telemetry
    tenant: str
    window: Window
    rank_timeout_s: float


class Relay:
    """What `arrive` hands back; rank with it.

    As a context manager it gives the ticket back when the request is abandoned, and ends
    the request's span. Not for use by several tasks at once.
    """

    def __init__(self, settings: RelaySettings, span: Span, user: str, request_id: str, history: History):
        self._settings = settings
        self._span = span
        self._user = user
        self._history = history
        self._arrived = ArriveResponse(request_id=request_id)
        self._is_closed = False
        self.timings_ms: dict[str, float] = {}
        """Milliseconds of each stage so far."""
        self.arrive_error: RelayError | None = None
        """Why the trigger gave no decision; the request is ranked all the same."""

    @property
    def request_id(self) -> str:
        """Id of the request."""
        return self._arrived.request_id

    @property
    def trace_id(self) -> str:
        """Trace of the request, hexadecimal."""
        return trace.format_trace_id(self._span.get_span_context().trace_id)

    @property
    def admitted(self) -> bool:
        """True when a pre-infer is on its way."""
        return self._arrived.HasField("ticket")

    @property
    def decision(self) -> str:
        """ADMITTED, NOT_AT_RISK or DECLINED; UNKNOWN when the trigger did not answer."""
        name = name_of(Decision, self._arrived.decision, "DECISION_")
        return "UNKNOWN" if name == "UNSPECIFIED" else name

    @property
    def reason(self) -> str:
        """Why; empty when the trigger did not answer."""
        name = name_of(DecisionReason, self._arrived.reason, "DECISION_REASON_")
        return "" if name == "UNSPECIFIED" else name

    @property
    def arrived(self) -> ArriveResponse:
        """The trigger's whole answer, with its predictions."""
        return self._arrived

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[Span]:
        """Time a stage of the request, such as retrieval, as a span of its trace."""
        started_s = time.monotonic()
        with (
            trace.use_span(self._span, record_exception=False, set_status_on_exception=False),
            self._settings.telemetry.span(names.SPAN_RECOMMEND_STAGE, {names.ATTR_RECOMMEND_STAGE: name}) as span,
        ):
            try:
                yield span
            finally:
                self.timings_ms[name] = (time.monotonic() - started_s) * 1e3

    async def rank(
        self,
        candidates: Candidates | ArrayLike,
        *,
        delta: BehavioursLike | None = None,
        cross: Cross | ArrayLike | None = None,
        request_time_s: int | None = None,
        as_of_s: int | None = None,
        deadline_ms: float | None = None,
        verify: bool = False,
    ) -> Ranking:
        """Score candidates.

        Args:
            candidates: item ids, or Candidates with features.
            delta: short-term behaviours after the history of `arrive`. By reference: None reads the store's.
            cross: cross features, one row a token.
            request_time_s: the request's own time, Unix seconds; None: now.
            as_of_s: by reference, behaviours before this Unix second belong to the delta; None: as in `arrive`.
            deadline_ms: time until the caller gives up; None: the client's default.
            verify: rank once more in full, and put the largest difference into the result.

        Raises:
            InvalidRequest: names the field.
            RelayError: not answered within the deadline, or refused with a reason.
        """
        timeout_s = self._settings.rank_timeout_s if deadline_ms is None else deadline_ms / 1e3
        chosen = candidates_of(candidates)
        request = self._request(chosen, delta, cross, request_time_s, as_of_s)
        ranking = await self._ranked("rank", chosen, request, timeout_s)
        if verify:
            ranking = await self._verified(ranking, chosen, request, timeout_s)
        self._span.set_attributes({names.ATTR_RANK_TIER: ranking.tier, names.ATTR_RANK_FALLBACK: ranking.fallback})
        self._end()
        return replace(ranking, timings_ms={**self.timings_ms, **ranking.timings_ms})

    async def release(self) -> None:
        """Give up: the reservation is returned now instead of at the end of its window. Repeatable."""
        try:
            if not self._is_closed and self.admitted:
                quiet = trace.use_span(self._span, record_exception=False, set_status_on_exception=False)
                with contextlib.suppress(RelayError), quiet:
                    await self._settings.calls.release(self._arrived.ticket, RELEASE_TIMEOUT_S)
        finally:
            self._end()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.release()

    def answered(self, response: ArriveResponse) -> None:
        """Take the trigger's answer; called by the client."""
        self._arrived = response
        if response.HasField("cut"):
            self._history.cut.CopyFrom(response.cut)
        self._span.set_attributes(
            {
                names.ATTR_REQUEST_ID: self.request_id,
                names.ATTR_TRIGGER_DECISION: self.decision,
                names.ATTR_TRIGGER_REASON: self.reason,
            }
        )

    def unanswered(self, error: RelayError) -> None:
        """The trigger gave no decision; called by the client."""
        self.arrive_error = error
        self._span.set_attribute(names.ATTR_ERROR, type(error).__name__)

    def _request(
        self,
        candidates: Candidates,
        delta: BehavioursLike | None,
        cross: Cross | ArrayLike | None,
        request_time_s: int | None,
        as_of_s: int | None,
    ) -> RankRequest:
        history = History()
        history.CopyFrom(self._history)
        if as_of_s is not None:
            history.as_of_s = whole("as_of_s", as_of_s, SECONDS_MAX)
        short = None if delta is None else behaviours_of(delta, self._settings.window.features, "delta")
        return RankRequest(
            tenant=self._settings.tenant,
            user=self._user,
            request_id=self.request_id,
            ticket=self._arrived.ticket if self.admitted else None,
            history=history,
            delta=None if short is None else short.to_pb(),
            cross=None if cross is None else cross_of(cross).to_pb(),
            candidates=candidates.to_pb(),
            request_time_s=int(time.time()) if request_time_s is None else request_time_s,
        )

    async def _ranked(self, stage: str, chosen: Candidates, request: RankRequest, timeout_s: float) -> Ranking:
        with self.stage(stage):
            response = await self._settings.calls.rank(request, timeout_s)
        admitted = request.HasField("ticket")
        return ranking_of(chosen.item_ids, response, admitted=admitted, trace_id=self.trace_id)

    async def _verified(self, ranking: Ranking, chosen: Candidates, request: RankRequest, timeout_s: float) -> Ranking:
        """Rank in full, without the ticket: it must neither use nor end a reservation."""
        full = RankRequest()
        full.CopyFrom(request)
        full.ClearField("ticket")
        full.bypass_psi = True
        reference = await self._ranked("verify", chosen, full, timeout_s)
        difference = score_difference(ranking.scores, reference.scores)
        self._span.set_attribute(names.ATTR_RECOMMEND_SCORE_DIFFERENCE, difference)
        return replace(ranking, score_difference=difference)

    def _end(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._span.end()
