"""The trigger's gRPC edge: message to domain, deadline, ticket. The decision is the core's.

Source: design, section 3 (trigger).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

import grpc

from relaygr.rpc.deadline import DEFAULT_DEADLINE_NS, remaining_ns
from relaygr.rpc.identity import model_to_pb
from relaygr.rpc.tickets import encode_ticket
from relaygr.runtime.driver import Driver
from relaygr.telemetry import Telemetry, current_traceparent, names
from relaygr.v1.common_pb2 import Cut, History, Ticket, TicketClaims
from relaygr.v1.trigger_pb2 import ArriveRequest, ArriveResponse, Predictions
from relaygr.v1.trigger_pb2_grpc import TriggerServiceServicer
from services.trigger.adapters.histories import Histories
from services.trigger.adapters.pre_infers import PreInfers
from services.trigger.adapters.router import Binding, RouterClient
from services.trigger.arrival import Arrival, LogHead, check_limits, cut_at, demand_of, parse_arrival
from services.trigger.config import TriggerConfig
from services.trigger.core.admission import Admission, AdmissionRules
from services.trigger.core.effects import Admit, Decline, Effect, PassBy
from services.trigger.core.events import Arrived, Demand, TicketsEnded
from services.trigger.core.price import Terms
from services.trigger.core.risk import Assessment
from services.trigger.metrics import TriggerMetrics

Decided = Admit | Decline | PassBy
_UINT64_MAX = (1 << 64) - 1
"""What a message can hold; an instance whose costs are absurd is predicted to take longer."""


class TriggerService(TriggerServiceServicer):
    """Answers arrivals.

    Collaborators are handed in; `admission` makes the core, `unix_now_ns` and `new_id` are so that tests can fix them.
    """

    def __init__(
        self,
        config: TriggerConfig,
        router: RouterClient,
        histories: Histories,
        telemetry: Telemetry,
        *,
        admission: Callable[[AdmissionRules], Admission] = Admission,
        unix_now_ns: Callable[[], int] = time.time_ns,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ):
        self._config = config
        self._router = router
        self._histories = histories
        self._telemetry = telemetry
        self._unix_now_ns = unix_now_ns
        self._new_id = new_id
        self._admission = admission(config.rules)
        self._driver = Driver(self._admission, self._perform)
        self._metrics = TriggerMetrics(telemetry, self._admission)
        self._pre_infers = PreInfers(router, self._driver.feed, telemetry, self._metrics)
        self._decided: Decided | None = None
        self._last_seen: Binding | None = None

    @property
    def admission(self) -> Admission:
        """The core, for gauges and tests."""
        return self._admission

    async def drain(self, timeout_s: float) -> None:
        """Let pre-infers on their way end, for so long; arrivals are still answered."""
        await self._pre_infers.drain(timeout_s)

    def close(self) -> None:
        """Give everything up; after the server has stopped."""
        self._driver.close()
        self._histories.close()

    async def Arrive(self, request: ArriveRequest, context: grpc.aio.ServicerContext) -> ArriveResponse:
        """Decide, answer, and send the pre-infer behind the answer's back."""
        arrival = parse_arrival(request, self._config)
        request_id = arrival.request_id or self._new_id()
        head = None if arrival.inline_cut else await self._histories.head(arrival.user, arrival.as_of_s)
        binding = await self._resolve(arrival, head, remaining_ns(context, DEFAULT_DEADLINE_NS))
        if binding is None:
            return self._without_instance(request_id, arrival, head)
        if binding.ended_ticket_ids:
            self._driver.feed(TicketsEnded(binding.ended_ticket_ids))
        check_limits(arrival, binding.limits)
        cut = _cut_of(arrival, head, binding)
        demand = demand_of(arrival, cut.behaviour_count, binding.instance.cost.candidates_typical)
        attributes = {
            names.ATTR_REQUEST_ID: request_id,
            names.ATTR_USER_HASH: self._telemetry.user_hash(arrival.user),
            names.ATTR_INSTANCE_ID: binding.instance.instance_id,
        }
        with self._telemetry.span(names.SPAN_TRIGGER_ADMISSION, attributes) as span:
            decided = self._decide(demand, binding)
            decision, reason = _names_of(decided)
            span.set_attributes(_attributes_of(decision, reason, decided))
            ticket = self._ticket(decided, arrival, cut, binding) if isinstance(decided, Admit) else None
        if ticket is not None:
            history = History(cut=cut, inline=request.history.inline, as_of_s=arrival.as_of_s)
            self._pre_infers.send(decided.ticket_id, ticket, history, demand.window_ns)
        return self._answer(request_id, decision, reason, cut, decided, binding, ticket)

    async def _resolve(self, arrival: Arrival, head: LogHead | None, left_ns: int) -> Binding | None:
        """Ask the router, telling it what the last known instance's costs foretell."""
        expected_ns, rank_on_psi_ns, will_admit = 0, 0, True
        if (seen := self._last_seen) is not None:
            behaviours = _cut_of(arrival, head, seen).behaviour_count
            demand = demand_of(arrival, behaviours, seen.instance.cost.candidates_typical)
            assessment = self._admission.foresee(demand, seen.instance)
            expected_ns, rank_on_psi_ns = assessment.full_ns, assessment.rank_on_psi_ns
            will_admit = self._admission.would_admit(demand, assessment)
        binding = await self._router.resolve(
            arrival.user,
            expected_ns=expected_ns,
            rank_on_psi_ns=rank_on_psi_ns,
            will_admit=will_admit,
            window_ns=arrival.budgets.window_ns,
            remaining_ns=left_ns,
        )
        self._last_seen = binding or self._last_seen
        return binding

    def _decide(self, demand: Demand, binding: Binding) -> Decided:
        self._decided = None
        self._driver.feed(Arrived(self._new_id(), demand, binding.instance))
        assert self._decided is not None, "each arrival is decided at once"
        return self._decided

    def _perform(self, effect: Effect) -> None:
        if isinstance(effect, Admit | Decline | PassBy):
            self._decided = effect

    def _ticket(self, admit: Admit, arrival: Arrival, cut: Cut, binding: Binding) -> Ticket:
        issued_unix_ns = self._unix_now_ns()
        claims = TicketClaims(
            ticket_id=admit.ticket_id,
            tenant=arrival.user.tenant,
            user=arrival.user.user,
            instance_id=admit.instance_id,
            instance_epoch=admit.epoch,
            model=model_to_pb(binding.model),
            cut=cut,
            issued_unix_ns=issued_unix_ns,
            expires_unix_ns=issued_unix_ns + admit.window_ns,
            reserved_bytes=admit.assessment.psi_bytes,
            traceparent=current_traceparent(),
            trigger_id=self._router.trigger_id,
            rank_budget_ns=admit.assessment.rank_budget_ns,
        )
        return encode_ticket(claims, self._config.ticket_key)

    def _without_instance(self, request_id: str, arrival: Arrival, head: LogHead | None) -> ArriveResponse:
        """No ticket, but a cut where one can be fixed: the rank then reads the same history."""
        cut = arrival.inline_cut
        if cut is None and self._last_seen is not None:
            cut = _cut_of(arrival, head, self._last_seen)
        self._metrics.decided("DECLINED", "NO_INSTANCE")
        return ArriveResponse(
            request_id=request_id,
            decision="DECISION_DECLINED",
            reason="DECISION_REASON_NO_INSTANCE",
            cut=cut,
        )

    def _answer(
        self,
        request_id: str,
        decision: str,
        reason: str,
        cut: Cut,
        decided: Decided,
        binding: Binding,
        ticket: Ticket | None,
    ) -> ArriveResponse:
        self._metrics.decided(decision, reason)
        return ArriveResponse(
            request_id=request_id,
            decision=f"DECISION_{decision}",
            reason=f"DECISION_REASON_{reason}",
            predictions=_predictions_of(decided.assessment, decided.terms),
            ticket=ticket,
            cut=cut,
            instance_id=binding.instance.instance_id,
        )


def _cut_of(arrival: Arrival, head: LogHead | None, binding: Binding) -> Cut:
    if arrival.inline_cut is not None:
        return arrival.inline_cut
    assert head is not None
    return cut_at(head, binding.limits)


def _names_of(decided: Decided) -> tuple[str, str]:
    match decided:
        case Admit():
            return "ADMITTED", "AT_RISK"
        case PassBy():
            return "NOT_AT_RISK", "FITS_BUDGET"
        case Decline():
            return "DECLINED", decided.reason.value


def _predictions_of(assessment: Assessment, terms: Terms | None) -> Predictions:
    predictions = Predictions(
        full_ns=min(assessment.full_ns, _UINT64_MAX),
        rank_on_psi_ns=min(assessment.rank_on_psi_ns, _UINT64_MAX),
        pre_infer_ns=min(assessment.pre_infer_ns, _UINT64_MAX),
        queue_ns=min(assessment.queue_ns, _UINT64_MAX),
        rank_budget_ns=assessment.rank_budget_ns,
        psi_bytes=min(assessment.psi_bytes, _UINT64_MAX),
    )
    if terms is not None:
        predictions.miss_saved = terms.miss_saved
        predictions.price = terms.price
        predictions.footprint_used = terms.footprint_used
        predictions.load_used = terms.load_used
        predictions.footprint_scale = terms.footprint_scale
        predictions.load_scale = terms.load_scale
    return predictions


def _attributes_of(decision: str, reason: str, decided: Decided) -> dict[str, str | float | int]:
    assessment, terms = decided.assessment, decided.terms
    attributes: dict[str, str | float | int] = {
        names.ATTR_TRIGGER_DECISION: decision,
        names.ATTR_TRIGGER_REASON: reason,
        names.ATTR_TRIGGER_FULL_MS: assessment.full_ns / 1e6,
        names.ATTR_TRIGGER_RANK_ON_PSI_MS: assessment.rank_on_psi_ns / 1e6,
        names.ATTR_TRIGGER_PRE_INFER_MS: assessment.pre_infer_ns / 1e6,
        names.ATTR_TRIGGER_QUEUE_MS: assessment.queue_ns / 1e6,
        names.ATTR_TRIGGER_BUDGET_MS: assessment.rank_budget_ns / 1e6,
        names.ATTR_TRIGGER_PSI_BYTES: assessment.psi_bytes,
    }
    if terms is not None:
        attributes[names.ATTR_TRIGGER_MISS_SAVED] = terms.miss_saved
        attributes[names.ATTR_TRIGGER_PRICE] = terms.price
        attributes[names.ATTR_TRIGGER_FOOTPRINT_USED] = terms.footprint_used
        attributes[names.ATTR_TRIGGER_LOAD_USED] = terms.load_used
    return attributes
