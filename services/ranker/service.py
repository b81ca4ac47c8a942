"""The ranker's gRPC edge: message to domain and back, deadline, status. No decisions."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import grpc

from relaygr.behaviours.columns import Behaviours, Candidates, Cross
from relaygr.behaviours.store import CutGone
from relaygr.domain.ended import EndedTickets
from relaygr.domain.identity import PsiKey, UserKey
from relaygr.domain.instance import InstanceState
from relaygr.errors import InvalidRequest, Refused, Stale
from relaygr.model.interface import RelayModel
from relaygr.rpc.deadline import remaining_ns
from relaygr.rpc.identity import (
    checked_request_id,
    cost_to_pb,
    limits_to_pb,
    model_from_pb,
    model_to_pb,
    user_key_of,
)
from relaygr.rpc.tickets import decode_ticket, window_remaining_ns
from relaygr.telemetry import Telemetry, current_traceparent, names
from relaygr.telemetry.provider import current_span
from relaygr.v1 import common_pb2, ranker_pb2, ranker_pb2_grpc
from services.ranker.answer import Answers, Asked, Instance, Observer
from services.ranker.core import effects as fx
from services.ranker.core import events as ev
from services.ranker.engine import Engine, RankWork
from services.ranker.metrics import RankerMetrics
from services.ranker.prefix import Prefix, PrefixReader
from services.ranker.work import Suffix

CROSS_TOKENS_MAX = 64
"""Cross features are a handful of dense tokens; more is a mistake."""
USER_TOKENS = 1
"""Tokens of a prefix beside its behaviours."""
READS_MAX = 3
"""Times that a history is read while the store is being taken up anew."""


@dataclass(frozen=True, slots=True)
class _TicketUse:
    """What a rank's ticket says here."""

    ticket_id: str | None
    """None without a usable one."""
    is_foreign: bool
    """It belongs to another instance or boot."""
    budget_ns: int
    """0: none."""
    trigger_id: str
    """Who issued it."""


class RankerService(ranker_pb2_grpc.RankerServiceServicer):
    """Serves relaygr.v1.RankerService."""

    def __init__(
        self,
        *,
        engine: Engine,
        model: RelayModel,
        reader: PrefixReader,
        instance: Instance,
        ticket_key: bytes,
        telemetry: Telemetry,
        metrics: RankerMetrics,
        deadline_default_ns: int,
        budget_default_ns: int,
        on_state: Callable[[], None] = lambda: None,
    ):
        """Take what the calls need.

        `budget_default_ns` is of ranks whose ticket tells none (0: due by their deadline alone); `on_state` hears when
        the record's state changed.
        """
        self._engine = engine
        self._model = model
        # A property that is put together anew each time.
        self._spec = model.spec
        features = self._spec.features
        self._no_delta = Behaviours.empty(features.behaviour_dense, len(features.behaviour_categorical))
        self._no_cross = Cross.empty(features.cross_dense)
        self._reader = reader
        self._instance = instance
        self._ticket_key = ticket_key
        self._telemetry = telemetry
        self._metrics = metrics
        self._answers = Answers(engine, model, instance)
        self._observer = Observer(telemetry, metrics)
        self._on_state = on_state
        self._ended = EndedTickets()
        self._deadline_default_ns = deadline_default_ns
        self._budget_default_ns = budget_default_ns
        self._called_ns = 0

    @property
    def called_ns(self) -> int:
        """When a pre-infer or a rank came last, monotonic; 0 when none has."""
        return self._called_ns

    def set_draining(self, is_draining: bool) -> None:
        """Stop or resume taking pre-infers."""
        state = InstanceState.DRAINING if is_draining else InstanceState.READY
        self._instance.record = replace(self._instance.record, state=state)
        self._engine.feed(ev.DrainSet(is_draining))
        self._on_state()

    async def PreInfer(
        self, request: ranker_pb2.PreInferRequest, context: grpc.aio.ServicerContext
    ) -> ranker_pb2.PreInferResponse:
        """Accept or decline a production; the work runs on."""
        self._called_ns = time.monotonic_ns()
        claims = decode_ticket(request.ticket, self._ticket_key)
        owner = user_key_of(claims.tenant, claims.user, "ticket.claims.")
        if request.history.HasField("cut") and request.history.cut != claims.cut:
            raise InvalidRequest("history.cut", "differs from the ticket's")
        answer = self._pre_infer(claims, owner, request.history)
        acceptance = answer.how.value if isinstance(answer, fx.Accept) else "DECLINED"
        reason = answer.reason.value if isinstance(answer, fx.Decline) else ""
        self._metrics.pre_inferred(acceptance, reason)
        current_span().set_attributes(
            {
                names.ATTR_PRE_INFER_ACCEPTANCE: acceptance,
                names.ATTR_PRE_INFER_REASON: reason,
                names.ATTR_TICKET_ID: claims.ticket_id,
                names.ATTR_USER_HASH: self._telemetry.user_hash(owner),
            }
        )
        return ranker_pb2.PreInferResponse(
            acceptance=f"ACCEPTANCE_{acceptance}",
            reason=f"DECLINE_REASON_{reason or 'UNSPECIFIED'}",
            load=self._answers.load(),
            production_ns=self._production_ns(claims, answer),
            feedback=self._answers.feedback(),
            ended_ticket_ids=self._ended.take(claims.trigger_id),
        )

    def _production_ns(self, claims: common_pb2.TicketClaims, answer: fx.Accept | fx.Decline) -> int:
        """Expected device time of what a pre-infer started."""
        if not isinstance(answer, fx.Accept) or answer.how is not fx.Acceptance.STARTED:
            return 0
        missing = claims.cut.behaviour_count + USER_TOKENS - answer.begins_tokens
        return self._instance.record.cost.extend_ns(missing, answer.begins_tokens)

    def _pre_infer(
        self, claims: common_pb2.TicketClaims, owner: UserKey, history: common_pb2.History
    ) -> fx.Accept | fx.Decline:
        ticket_id = claims.ticket_id
        if self._is_foreign(claims):
            return fx.Decline(ticket_id, fx.DeclineReason.FOREIGN_TICKET)
        left_ns = window_remaining_ns(claims, time.time_ns())
        if left_ns <= 0:
            return fx.Decline(ticket_id, fx.DeclineReason.EXPIRED)
        at_cut = common_pb2.History(cut=claims.cut, inline=history.inline, as_of_s=history.as_of_s)
        try:
            prefix = self._reader.read(owner, at_cut, "history")
        except CutGone:
            return fx.Decline(ticket_id, fx.DeclineReason.CUT_GONE)
        window_end_ns = time.monotonic_ns() + left_ns
        key = self._key_of(owner, prefix)
        return self._engine.pre_infer(ticket_id, key, prefix, window_end_ns, current_traceparent())

    async def Rank(self, request: ranker_pb2.RankRequest, context: grpc.aio.ServicerContext) -> ranker_pb2.RankResponse:
        """Score candidates; losing psi is never an error."""
        arrived_ns = self._called_ns = time.monotonic_ns()
        self._engine.observed.rank_asked(arrived_ns)
        asked = self._read(request, context, arrived_ns)
        result = await self._engine.rank(asked.work)
        # A rank that bypasses psi consumes no ticket.
        if asked.work.ticket_id is not None and not asked.work.bypass_psi:
            self._ended.put(asked.trigger_id, asked.work.ticket_id)
        response = self._answers.rank(asked, result)
        self._observer.ranked(asked, response)
        return response

    def _read(self, request: ranker_pb2.RankRequest, context: grpc.aio.ServicerContext, arrived_ns: int) -> Asked:
        owner = user_key_of(request.tenant, request.user)
        checked_request_id(request.request_id)
        ticket = self._ticket(request, owner)
        candidates, cross = self._candidates(request), self._cross(request)
        prefix, delta = self._history(request, owner)
        work = RankWork(
            key=self._key_of(owner, prefix),
            prefix=prefix,
            suffix=Suffix(delta, cross, candidates, request.request_time_s),
            ticket_id=ticket.ticket_id,
            deadline_ns=arrived_ns + remaining_ns(context, self._deadline_default_ns),
            due_ns=arrived_ns + ticket.budget_ns if ticket.budget_ns else None,
            bypass_psi=request.bypass_psi,
        )
        prepare_ns = time.monotonic_ns() - arrived_ns
        return Asked(owner, request.request_id, work, ticket.is_foreign, arrived_ns, prepare_ns, ticket.trigger_id)

    def _ticket(self, request: ranker_pb2.RankRequest, owner: UserKey) -> _TicketUse:
        """What the ticket says, if there is one.

        Raises:
            Stale: it is of another model, which a router that has not heard of this boot yet takes for this one's.
        """
        if not request.HasField("ticket"):
            return _TicketUse(None, False, self._budget_default_ns, "")
        claims = decode_ticket(request.ticket, self._ticket_key)
        if (claims.tenant, claims.user) != (owner.tenant, owner.user):
            raise InvalidRequest("ticket", "was issued for another user")
        if request.history.HasField("cut") and request.history.cut != claims.cut:
            raise InvalidRequest("history.cut", "differs from the ticket's")
        if model_from_pb(claims.model) != self._instance.record.model:
            # In full by this model would still be a score of another model than the caller was promised.
            raise Stale("the ticket is of another model than this instance serves")
        is_foreign = self._is_foreign(claims)
        budget_ns = claims.rank_budget_ns or self._budget_default_ns
        return _TicketUse(None if is_foreign else claims.ticket_id, is_foreign, budget_ns, claims.trigger_id)

    def _is_foreign(self, claims: common_pb2.TicketClaims) -> bool:
        record = self._instance.record
        return (
            claims.instance_id != record.instance_id
            or claims.instance_epoch != record.epoch
            or model_from_pb(claims.model) != record.model
        )

    def _candidates(self, request: ranker_pb2.RankRequest) -> Candidates:
        spec = self._spec
        return Candidates.from_pb(
            request.candidates,
            spec.features.candidate_dense,
            len(spec.features.candidate_categorical),
            "candidates",
            count_max=spec.limits.candidates_max,
            categorical_sizes=spec.features.candidate_categorical,
        )

    def _cross(self, request: ranker_pb2.RankRequest) -> Cross:
        if not request.HasField("cross"):
            return self._no_cross
        return Cross.from_pb(request.cross, self._spec.features.cross_dense, "cross", count_max=CROSS_TOKENS_MAX)

    def _history(self, request: ranker_pb2.RankRequest, owner: UserKey) -> tuple[Prefix, Behaviours]:
        """The prefix and what follows it.

        Raises:
            Refused: the store never held still.
        """
        sent, history = self._sent_delta(request), request.history
        try:
            prefix = self._reader.read(owner, history, "history")
            return prefix, self._delta(request, owner, prefix, sent)
        except CutGone:
            # The store moved on: this request's prefix is what the store has now, up to the delta sent along.
            before_s = history.as_of_s
            if len(sent):
                begin_s = max(1, int(sent.timestamps_s[0]))
                before_s = min(before_s or begin_s, begin_s)
        for _ in range(READS_MAX - 1):
            with contextlib.suppress(CutGone):
                prefix = self._reader.read_anew(owner, before_s, "history")
                return prefix, self._delta(request, owner, prefix, sent)
        raise Refused("the behaviour store is changing; retry")

    def _sent_delta(self, request: ranker_pb2.RankRequest) -> Behaviours:
        if not request.HasField("delta"):
            return self._no_delta
        spec = self._spec
        return Behaviours.from_pb(
            request.delta,
            spec.features.behaviour_dense,
            len(spec.features.behaviour_categorical),
            "delta",
            count_max=spec.limits.delta_behaviours_max,
            categorical_sizes=spec.features.behaviour_categorical,
        )

    def _delta(self, request: ranker_pb2.RankRequest, owner: UserKey, prefix: Prefix, sent: Behaviours) -> Behaviours:
        if len(sent):
            _check_order(prefix, sent)
            return sent
        if request.history.inline:
            return sent
        return self._reader.read_delta(owner, prefix, request.history.as_of_s)

    def _key_of(self, owner: UserKey, prefix: Prefix) -> PsiKey:
        return PsiKey(owner, self._instance.record.model.key, prefix.anchor)

    async def Release(
        self, request: ranker_pb2.ReleaseRequest, context: grpc.aio.ServicerContext
    ) -> ranker_pb2.ReleaseResponse:
        """End a ticket's reservation."""
        claims = decode_ticket(request.ticket, self._ticket_key)
        was_held = self._engine.release(claims.ticket_id)
        if was_held:
            self._ended.put(claims.trigger_id, claims.ticket_id)
        return ranker_pb2.ReleaseResponse(was_held=was_held)

    async def Forget(
        self, request: ranker_pb2.ForgetRequest, context: grpc.aio.ServicerContext
    ) -> ranker_pb2.ForgetResponse:
        """Purge a user from device and DRAM."""
        owner = user_key_of(request.tenant, request.user)
        self._reader.forget(owner)
        device, dram, reached = await self._engine.forget(owner)
        return ranker_pb2.ForgetResponse(device_entries=device, dram_entries=dram, dram_reached=reached)

    async def Describe(
        self, request: ranker_pb2.DescribeRequest, context: grpc.aio.ServicerContext
    ) -> ranker_pb2.DescribeResponse:
        """Identity, budgets, occupancy, cost model and counters."""
        record, seen = self._instance.record, self._engine.residency.snapshot()
        return ranker_pb2.DescribeResponse(
            instance_id=record.instance_id,
            instance_epoch=record.epoch,
            state=self._state(),
            model=model_to_pb(record.model),
            limits=limits_to_pb(record.limits),
            cost=cost_to_pb(record.cost),
            load=self._answers.load(),
            resident_entries=seen.resident_entries,
            open_tickets=seen.open_tickets,
            dram_attached=self._engine.is_dram_attached,
            kernel=getattr(self._model, "kernel", ""),
            counters=[ranker_pb2.Counter(name=name, value=value) for name, value in sorted(seen.counters.items())],
        )

    async def Drain(
        self, request: ranker_pb2.DrainRequest, context: grpc.aio.ServicerContext
    ) -> ranker_pb2.DrainResponse:
        """Stop or resume taking pre-infers."""
        self.set_draining(not request.undo)
        return ranker_pb2.DrainResponse(
            state=self._state(), open_tickets=self._engine.residency.snapshot().open_tickets
        )

    def _state(self) -> ranker_pb2.InstanceState:
        if self._instance.is_draining:
            return ranker_pb2.INSTANCE_STATE_DRAINING
        return ranker_pb2.INSTANCE_STATE_READY


def _check_order(prefix: Prefix, delta: Behaviours) -> None:
    if len(prefix.behaviours) and delta.timestamps_s[0] < prefix.behaviours.timestamps_s[-1]:
        raise InvalidRequest("delta.timestamps_s", "begins before the prefix ends")
