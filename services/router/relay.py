"""Carries requests to instances: choose, call, and choose again when nobody is there.

A killed instance fails its calls at once. A stopped one lets them wait: at half of the
time that is left its health is checked, and unless it answers by 60 %, the rest of the
time belongs to another instance. A busy instance answers its health check and is waited
for. Whoever does not answer the check within its own timeout is fenced.

Source: design, section 3 (router), section 4 (forgetting), invariant I6.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.message import DecodeError
from opentelemetry.trace import Span

from relaygr.domain.identity import UserKey
from relaygr.domain.instance import InstanceRecord
from relaygr.errors import DeadlineTooShort, PeerFailed, RelayError, Stale, Unreachable
from relaygr.rpc.deadline import child_timeout_s
from relaygr.rpc.identity import feedback_from_pb
from relaygr.rpc.patience import Patience
from relaygr.telemetry import Telemetry, current_span, names
from relaygr.v1 import ranker_pb2
from relaygr.v1.forward_pb2 import RankAnswerHead
from services.router.adapters.probes import Probes
from services.router.adapters.rankers import Rankers, queues_of
from services.router.core.binding import Binding, Branch, Placement, Refusal, Subject, TicketRef
from services.router.core.events import CallFailed, Event, FenceReason
from services.router.core.patience import ATTEMPTS_MAX, CHECK_AT, LEAVE_AT, expected_rank_ns
from services.router.forward import RankCall, Ranked
from services.router.metrics import RouterMetrics


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What a Forget erased, over all instances."""

    device_entries: int
    dram_entries: int
    unreached_instance_ids: tuple[str, ...]


@dataclass(slots=True)
class _Attempt:
    """A rank at one instance."""

    record: InstanceRecord
    timeout_s: float
    other: Callable[[int], Placement | None]
    """Who would be next, at a time."""
    began_ns: int = 0


class Relay:
    """Forwards to rankers by the core's choice; a rank to at most `attempts_max` of them."""

    def __init__(
        self,
        core: Binding,
        feed: Callable[[Event], None],
        rankers: Rankers,
        probes: Probes,
        telemetry: Telemetry,
        metrics: RouterMetrics,
        *,
        margin_ns: int,
        attempts_max: int = ATTEMPTS_MAX,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._core = core
        self._feed = feed
        self._rankers = rankers
        self._probes = probes
        self._telemetry = telemetry
        self._metrics = metrics
        self._margin_ns = margin_ns
        self._attempts_max = attempts_max
        self._clock = clock

    async def rank(self, subject: Subject, ticket: TicketRef | None, request: RankCall, left_ns: int) -> Ranked:
        """Rank on the instance bound, else on another of the same model.

        Raises:
            Unreachable: no instance of the model is left.
            DeadlineTooShort: no time is left.
            RelayError: the ranker's refusal.
        """
        end_ns = self._clock() + left_ns
        self._core.load.rank_came(subject.user_hash)
        tried: list[str] = []
        last: RelayError | None = None
        span = current_span()
        while len(tried) < self._attempts_max:
            placement = self._choose(subject, ticket, tried, span)
            if placement is None:
                break
            record = placement.record
            tried.append(record.instance_id)
            timeout_s = child_timeout_s(end_ns - self._clock(), self._margin_ns)
            attempt = _Attempt(record, timeout_s, lambda now_ns: self._core.route_rank(subject, ticket, tried, now_ns))
            try:
                answer = await self._attempted(attempt, request, has_psi=placement.branch is Branch.TICKET)
            except (Unreachable, Stale) as error:
                if isinstance(error, Unreachable) and self._has_failed(error):
                    self._failed(record)
                last = error
                continue
            self._metrics.chosen(placement.branch)
            span.set_attribute(names.ATTR_ROUTE_ATTEMPTS, len(tried))
            return Ranked(answer, placement.branch, len(tried))
        if isinstance(last, Unreachable):
            raise last
        raise Unreachable("rankers", last or "no instance of the model is known")

    async def pre_infer(
        self, ticket: TicketRef, request: ranker_pb2.PreInferRequest, left_ns: int
    ) -> ranker_pb2.PreInferResponse:
        """Forward to the instance that the ticket names, or decline.

        Raises:
            RelayError: the ranker's refusal, or no time left.
        """
        target = self._core.route_pre_infer(ticket)
        if isinstance(target, Refusal):
            return _declined(target)
        timeout_s = child_timeout_s(left_ns, self._margin_ns)
        tokens = request.history.cut.behaviour_count + 1
        began_ns = self._clock()
        call = self._core.load.begin(target.instance_id, target.cost.extend_ns(tokens, 0), began_ns)
        queues = feedback = None
        try:
            response = await self._rankers.pre_infer(target.address, request, timeout_s)
            queues = queues_of(response.load)
            feedback = feedback_from_pb(response.feedback) if response.HasField("feedback") else None
            self._metrics.chosen(Branch.TICKET)
            return response
        except Unreachable:
            self._failed(target)
            return _declined(Refusal.UNREACHABLE)
        except RelayError as error:
            self._answered(target, error, began_ns)
            raise
        finally:
            self._core.load.end(call, self._clock(), queues, feedback)

    async def release(self, ticket: TicketRef, request: ranker_pb2.ReleaseRequest, left_ns: int) -> bool:
        """Give a reservation back; False when nothing was held or nobody could be asked: it ends with its window."""
        target = self._core.route_pre_infer(ticket)
        if isinstance(target, Refusal):
            return False
        try:
            timeout_s = child_timeout_s(left_ns, self._margin_ns)
            return (await self._rankers.release(target.address, request, timeout_s)).was_held
        except Unreachable:
            self._failed(target)
            return False
        except RelayError:
            return False

    async def forget(self, user: UserKey, left_ns: int, timeout_max_ns: int) -> Forgotten:
        """Erase a user on every instance known, fenced ones included."""
        request = ranker_pb2.ForgetRequest(tenant=user.tenant, user=user.user)
        timeout_s = child_timeout_s(min(left_ns, timeout_max_ns), self._margin_ns)
        records = [member.record for member in self._core.members]
        answers = await asyncio.gather(
            *(self._rankers.forget(record.address, request, timeout_s) for record in records), return_exceptions=True
        )
        device_entries = dram_entries = 0
        unreached: list[str] = []
        for record, answer in zip(records, answers, strict=True):
            if isinstance(answer, ranker_pb2.ForgetResponse):
                device_entries += answer.device_entries
                dram_entries += answer.dram_entries
                if answer.dram_reached:
                    continue
            elif not isinstance(answer, RelayError):
                raise answer
            unreached.append(record.instance_id)
        return Forgotten(device_entries, dram_entries, tuple(unreached))

    def _choose(self, subject: Subject, ticket: TicketRef | None, tried: list[str], current: Span) -> Placement | None:
        if not current.is_recording():
            # A fifth of a rank's time here, for a span that nobody would see.
            return self._core.route_rank(subject, ticket, tried, self._clock())
        with self._telemetry.span(names.SPAN_ROUTE_CHOOSE, {names.ATTR_USER_HASH: subject.user_hash}) as span:
            placement = self._core.route_rank(subject, ticket, tried, self._clock())
            if placement is not None:
                span.set_attribute(names.ATTR_INSTANCE_ID, placement.record.instance_id)
                span.set_attribute(names.ATTR_ROUTE_BRANCH, placement.branch.value)
            return placement

    async def _attempted(self, attempt: _Attempt, request: RankCall, *, has_psi: bool) -> bytes:
        record, head = attempt.record, request.head
        behaviours, delta_tokens = head.history.cut.behaviour_count, head.delta.count + head.cross.count
        expected_ns = expected_rank_ns(record, behaviours, delta_tokens, head.candidates.count, has_psi=has_psi)
        attempt.began_ns = began_ns = self._clock()
        number = self._core.load.begin(record.instance_id, expected_ns, began_ns, is_rank=True)
        queues, patience = None, None
        try:
            call = self._rankers.rank(record.address, request, attempt.timeout_s)
            patience = Patience(attempt.timeout_s * CHECK_AT, self._is_silent, attempt)
            answer = await call
            queues = queues_of(_answer_head(answer, record).load)
            return answer
        except RelayError as error:
            self._answered(record, error, began_ns)
            raise
        except asyncio.CancelledError:
            if patience is not None and patience.has_ended_it:
                raise _SilentError(record.instance_id, "no answer") from None
            raise
        finally:
            if patience is not None:
                patience.close()
            self._core.load.end(number, self._clock(), queues)

    async def _is_silent(self, attempt: _Attempt) -> bool:
        """True when nothing is heard of the instance for a while; False when it is alive, or nobody else is there."""
        if attempt.other(self._clock()) is None:
            return False
        record, patience_s = attempt.record, attempt.timeout_s * (LEAVE_AT - CHECK_AT)
        # Only a word as fresh as the check's own answer would be: a busy instance that stops has spoken a moment ago.
        fresh_ns = max(attempt.began_ns, self._clock() - int(patience_s * 1e9))
        if self._core.load.has_spoken_since(record.instance_id, fresh_ns):
            return False
        check = self._probes.suspect(record)
        await asyncio.wait({check}, timeout=patience_s)
        return not (check.done() and not check.cancelled() and check.result())

    def _answered(self, record: InstanceRecord, error: RelayError, began_ns: int) -> None:
        """Learn from an error: an answer is a sign of life; no answer at all is a reason to look."""
        is_open = isinstance(error, DeadlineTooShort) and not error.is_definite
        if is_open and not self._core.load.has_spoken_since(record.instance_id, began_ns):
            self._probes.suspect(record)
        elif not isinstance(error, Unreachable) and not is_open:
            self._core.load.heard(record.instance_id, self._clock())

    def _failed(self, record: InstanceRecord) -> None:
        self._feed(CallFailed(record.instance_id, record.epoch, FenceReason.UNREACHABLE))

    @staticmethod
    def _has_failed(error: Unreachable) -> bool:
        """False when the instance was left waiting: its health check decides then."""
        return not isinstance(error, _SilentError)


class _SilentError(Unreachable):
    """Nothing was heard in time; the call was given up."""


def _answer_head(answer: bytes, record: InstanceRecord) -> RankAnswerHead:
    try:
        return RankAnswerHead.FromString(answer)
    except DecodeError:
        raise PeerFailed(record.address, "its answer cannot be parsed") from None


def _declined(refusal: Refusal) -> ranker_pb2.PreInferResponse:
    reason = {
        Refusal.FOREIGN_TICKET: ranker_pb2.DECLINE_REASON_FOREIGN_TICKET,
        Refusal.UNREACHABLE: ranker_pb2.DECLINE_REASON_UNREACHABLE,
    }[refusal]
    return ranker_pb2.PreInferResponse(acceptance=ranker_pb2.ACCEPTANCE_DECLINED, reason=reason)
