"""Pre-infers on their way: each is a background task that always ends in an answer.

Arrive does not wait for these. Their number is bounded by the core, which admits nothing
while too many are unanswered.

Source: design, section 3 (trigger).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from relaygr.errors import RelayError
from relaygr.rpc.enums import name_of
from relaygr.telemetry import Telemetry, names
from relaygr.v1.common_pb2 import History, Ticket
from relaygr.v1.ranker_pb2 import Acceptance, DeclineReason, PreInferResponse
from services.trigger.adapters.router import RouterClient
from services.trigger.core.events import Outcome, PreInferAnswered, TicketsEnded
from services.trigger.metrics import TriggerMetrics

_OUTCOMES = {
    Acceptance.ACCEPTANCE_STARTED: Outcome.STARTED,
    Acceptance.ACCEPTANCE_RESIDENT: Outcome.RESIDENT,
    Acceptance.ACCEPTANCE_JOINED: Outcome.JOINED,
    Acceptance.ACCEPTANCE_DECLINED: Outcome.DECLINED,
}


class PreInfers:
    """Sends pre-infers and reports what became of them."""

    def __init__(
        self,
        router: RouterClient,
        report: Callable[[PreInferAnswered | TicketsEnded], None],
        telemetry: Telemetry,
        metrics: TriggerMetrics,
    ):
        self._router = router
        self._report = report
        self._telemetry = telemetry
        self._metrics = metrics
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, ticket_id: str, ticket: Ticket, history: History, window_ns: int) -> None:
        """Start sending; the current span becomes the parent."""
        task = asyncio.create_task(self._send(ticket_id, ticket, history, window_ns))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def drain(self, timeout_s: float) -> None:
        """Wait for what is on its way, then cancel the rest."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=timeout_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _send(self, ticket_id: str, ticket: Ticket, history: History, window_ns: int) -> None:
        outcome, reason = Outcome.UNREACHABLE, DeclineReason.DECLINE_REASON_UNREACHABLE
        production_ns = None
        with self._telemetry.span(names.SPAN_TRIGGER_PRE_INFER, {names.ATTR_TICKET_ID: ticket_id}) as span:
            try:
                answer = await self._router.pre_infer(ticket, history, window_ns)
                outcome, reason = _outcome_of(answer), answer.reason
                # An instance that does not fill it in says 0 for a production, which takes some time.
                production_ns = answer.production_ns or None
                if answer.ended_ticket_ids:
                    self._report(TicketsEnded(tuple(answer.ended_ticket_ids)))
            except RelayError as error:
                # Not an error of the request: its rank runs in full.
                span.set_attribute(names.ATTR_ERROR, type(error).__name__)
                if error.is_definite:
                    # Nobody has begun, so that nothing is to be paid for.
                    outcome, reason = Outcome.DECLINED, DeclineReason.DECLINE_REASON_UNSPECIFIED
            finally:
                self._report(PreInferAnswered(ticket_id, outcome, production_ns))
                text = name_of(DeclineReason, reason, "DECLINE_REASON_")
                span.set_attribute(names.ATTR_PRE_INFER_ACCEPTANCE, outcome.name)
                span.set_attribute(names.ATTR_PRE_INFER_REASON, text)
                self._metrics.answered(outcome.name, text)


def _outcome_of(answer: PreInferResponse) -> Outcome:
    if answer.reason == DeclineReason.DECLINE_REASON_UNREACHABLE:
        return Outcome.UNREACHABLE
    return _OUTCOMES.get(answer.acceptance, Outcome.UNREACHABLE)
