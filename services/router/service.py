"""The router's gRPC edge: message to domain, tickets, deadlines. Choices are the core's."""

from __future__ import annotations

import time
from collections.abc import Callable

import grpc

from relaygr.domain.ended import EndedTickets
from relaygr.domain.identity import UserKey
from relaygr.errors import InvalidRequest, Unreachable
from relaygr.rpc.deadline import remaining_ns
from relaygr.rpc.identity import (
    checked_request_id,
    cost_to_pb,
    feedback_to_pb,
    limits_to_pb,
    model_key_of,
    model_to_pb,
    user_key_of,
)
from relaygr.rpc.tickets import decode_ticket
from relaygr.telemetry import current_span, names
from relaygr.v1 import common_pb2, router_pb2
from relaygr.v1.forward_pb2 import HistoryHead, RankHead
from relaygr.v1.ranker_pb2 import RankRequest, ReleaseRequest
from relaygr.v1.router_pb2_grpc import RouterServiceServicer
from services.router.config import RouterConfig
from services.router.core.binding import Binding, Branch, Placement, Subject, TicketRef
from services.router.core.events import UserPlaced
from services.router.core.load import Queues
from services.router.core.pins import WINDOW_NS_MAX
from services.router.core.placing import user_placed
from services.router.forward import RankCall, Ranked
from services.router.relay import Relay

REPORTED_MAX = 64
"""Tickets reported at once."""


class RouterService(RouterServiceServicer):
    """Answers the trigger and the callers of Rank.

    Args:
        config: settings.
        core: the choices.
        relay: carries requests out.
        placed: told of each placement by Resolve, and of one that will be admitted what it brings; remembers
            where the user is, and its pin for the other routers.
        unpin: forgets a user's pin by hash.
        trigger_count: triggers alive.
        clock: monotonic nanoseconds.
    """

    def __init__(
        self,
        config: RouterConfig,
        core: Binding,
        relay: Relay,
        *,
        placed: Callable[[Placement, UserPlaced | None], None],
        unpin: Callable[[str], None],
        trigger_count: Callable[[], int],
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._config = config
        self._core = core
        self._relay = relay
        self._placed = placed
        self._unpin = unpin
        self._trigger_count = trigger_count
        self._clock = clock
        self.ended = EndedTickets()

    async def Resolve(
        self, request: router_pb2.ResolveRequest, context: grpc.aio.ServicerContext
    ) -> router_pb2.ResolveResponse:
        """Place a user."""
        subject = self._subject(user_key_of(request.tenant, request.user))
        placement = self._core.resolve(
            subject,
            will_admit=request.will_admit,
            window_ns=min(request.window_ns, WINDOW_NS_MAX),
            now_ns=self._clock(),
        )
        if placement is None:
            raise Unreachable("rankers", "no ranker is known")
        record = placement.record
        now_ns = self._clock()
        # Before the placement counts: what the user itself brings is not what it has to wait for.
        queues = self._core.load.queues(record.instance_id, now_ns)
        self._placed(placement, self._user_placed(request, subject, placement))
        feedback = self._core.load.feedback(record.instance_id)
        span = current_span()
        span.set_attribute(names.ATTR_USER_HASH, subject.user_hash)
        span.set_attribute(names.ATTR_INSTANCE_ID, record.instance_id)
        span.set_attribute(names.ATTR_ROUTE_BRANCH, placement.branch.value)
        return router_pb2.ResolveResponse(
            instance_id=record.instance_id,
            instance_epoch=record.epoch,
            branch=f"BRANCH_{placement.branch.value}",
            model=model_to_pb(record.model),
            limits=limits_to_pb(record.limits),
            cost=cost_to_pb(record.cost),
            load=_load_to_pb(queues, record.device_budget_bytes),
            rank_rate_hz=self._core.load.rank_rate_hz(record.instance_id, now_ns),
            trigger_count=self._trigger_count(),
            ended_ticket_ids=self.ended.take(request.trigger_id),
            feedback=feedback_to_pb(feedback) if feedback else None,
        )

    def _user_placed(
        self, request: router_pb2.ResolveRequest, subject: Subject, placement: Placement
    ) -> UserPlaced | None:
        """What a placement that will be admitted brings; None for another."""
        if not request.will_admit:
            return None
        return user_placed(
            placement,
            subject.user_hash,
            expected_ns=request.expected_ns,
            rank_on_psi_ns=request.rank_on_psi_ns,
            window_ns=request.window_ns,
        )

    async def PreInfer(
        self, request: router_pb2.RouterServicePreInferRequest, context: grpc.aio.ServicerContext
    ) -> router_pb2.RouterServicePreInferResponse:
        """Forward a pre-infer to where its ticket says."""
        inner = request.pre_infer
        claims = decode_ticket(inner.ticket, self._config.ticket_key)
        _check_cut(claims, inner.history)
        answer = await self._relay.pre_infer(_ref_of(claims), inner, remaining_ns(context))
        return router_pb2.RouterServicePreInferResponse(pre_infer=answer)

    async def Rank(self, request: RankCall, context: grpc.aio.ServicerContext) -> Ranked:
        """Forward a rank to where its psi is, or to whoever can answer."""
        head = request.head
        user = _rank_user(head)
        ticket, claims = None, None
        if head.HasField("ticket"):
            claims = decode_ticket(head.ticket, self._config.ticket_key)
            if claims.user != user.user or claims.tenant != user.tenant:
                raise InvalidRequest("ticket", "was issued for another user")
            _check_cut(claims, head.history)
            ticket = _ref_of(claims)
        span = current_span()
        if span.is_recording():
            span.set_attribute(names.ATTR_REQUEST_ID, head.request_id)
            if claims is not None:
                span.set_attribute(names.ATTR_TICKET_ID, claims.ticket_id)
        ranked = await self._relay.rank(self._subject(user), ticket, request, remaining_ns(context))
        # A rank that bypasses psi consumes no ticket.
        if claims is not None and ranked.branch is Branch.TICKET and not head.bypass_psi:
            self.ended.put(claims.trigger_id, claims.ticket_id)
        return ranked

    async def Release(
        self, request: router_pb2.RouterServiceReleaseRequest, context: grpc.aio.ServicerContext
    ) -> router_pb2.RouterServiceReleaseResponse:
        """Give an abandoned request's reservation back."""
        claims = decode_ticket(request.ticket, self._config.ticket_key)
        forwarded = ReleaseRequest(ticket=request.ticket)
        was_held = await self._relay.release(_ref_of(claims), forwarded, remaining_ns(context))
        if was_held:
            self.ended.put(claims.trigger_id, claims.ticket_id)
        return router_pb2.RouterServiceReleaseResponse(was_held=was_held)

    async def ReportEnded(
        self, request: router_pb2.RouterServiceReportEndedRequest, context: grpc.aio.ServicerContext
    ) -> router_pb2.RouterServiceReportEndedResponse:
        """Keep for their triggers the tickets that ended without this router. One that is not genuine refuses all."""
        if len(request.tickets) > REPORTED_MAX:
            raise InvalidRequest("tickets", f"more than {REPORTED_MAX}")
        ended = [decode_ticket(ticket, self._config.ticket_key, "tickets") for ticket in request.tickets]
        for claims in ended:
            self.ended.put(claims.trigger_id, claims.ticket_id)
        return router_pb2.RouterServiceReportEndedResponse()

    async def Forget(
        self, request: router_pb2.RouterServiceForgetRequest, context: grpc.aio.ServicerContext
    ) -> router_pb2.RouterServiceForgetResponse:
        """Erase a user everywhere."""
        user = user_key_of(request.tenant, request.user)
        self._unpin(self._subject(user).user_hash)
        timeout_max_ns = int(self._config.forget_timeout_ms * 1e6)
        forgotten = await self._relay.forget(user, remaining_ns(context), timeout_max_ns)
        return router_pb2.RouterServiceForgetResponse(
            device_entries=forgotten.device_entries,
            dram_entries=forgotten.dram_entries,
            unreached_instance_ids=forgotten.unreached_instance_ids,
        )

    def _subject(self, user: UserKey) -> Subject:
        # Keyed by the ticket key, which all routers share: they must agree on a pin's name.
        return Subject(user, user.hashed(self._config.ticket_key))


def _rank_user(head: RankHead | RankRequest) -> UserKey:
    try:
        checked_request_id(head.request_id)
        return user_key_of(head.tenant, head.user)
    except InvalidRequest as error:
        raise InvalidRequest(f"rank.{error.field}", error.problem) from None


def _ref_of(claims: common_pb2.TicketClaims) -> TicketRef:
    return TicketRef(claims.instance_id, claims.instance_epoch, model_key_of(claims.model))


def _check_cut(claims: common_pb2.TicketClaims, history: common_pb2.History | HistoryHead) -> None:
    if claims.cut != history.cut:
        raise InvalidRequest("ticket", "was issued for another cut of the history")


_BACKLOG_NS_MAX = 1 << 62


def _load_to_pb(queues: Queues, device_budget_bytes: int) -> common_pb2.Load:
    return common_pb2.Load(
        rank_jobs=queues.rank_jobs,
        full_jobs=queues.full_jobs,
        pre_infer_jobs=queues.pre_infer_jobs,
        # What an instance reported and what is on its way there add up to anything.
        backlog_ns=min(queues.backlog_ns, _BACKLOG_NS_MAX),
        device_used_bytes=queues.device_used_bytes,
        # Before the first reply the registration says it.
        device_budget_bytes=queues.device_budget_bytes or device_budget_bytes,
        rank_rate_hz=queues.rank_rate_hz,
    )
