"""A router: the production binding, its view of members and load, and how long it waits for whom.

Source: design, section 3 (router), invariants I6, I8; services/router/{service,relay}.py.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from relaygr.domain.ended import EndedTickets
from services.router.core.binding import Binding, Branch, Placement, Refusal, TicketRef
from services.router.core.effects import ChangeMembers, ConfirmLoss, Effect, ForgetPeer, PinUser, StartProbe
from services.router.core.events import CallFailed, Event, FenceReason, PinRead
from services.router.core.patience import ATTEMPTS_MAX, CHECK_AT, LEAVE_AT, expected_rank_ns
from services.router.core.placing import user_placed
from services.trigger.core.events import InstanceView
from sim.checks import Checks, demand
from sim.kernel import Kernel
from sim.messages import Asked, PreInferAnswer, RankAnswer, Request, Resolved, Ticket
from sim.network import Network
from sim.nodes.planner import Planner
from sim.nodes.probes import Probes
from sim.nodes.process import Deadlines, Process, Timer
from sim.settings import Settings


class Router(Process):
    """One boot of one router."""

    def __init__(
        self,
        kernel: Kernel,
        name: str,
        host: str,
        *,
        binding: type[Binding],
        settings: Settings,
        network: Network,
        checks: Checks,
        offset_ns: int = 0,
        skew_ns: int = 0,
    ) -> None:
        super().__init__(kernel, name, host, offset_ns=offset_ns, skew_ns=skew_ns)
        self.settings = settings
        self.network = network
        self.core = binding(
            spill_floor_ns=settings.spill_floor_ns,
            members_max=max(1024, settings.instances),
            warm_up_ns=settings.warm_up_ns,
        )
        self.trigger_count = 1
        self._checks = checks
        self._ended = EndedTickets()
        self._timer = Timer(self, self.core, self._expire)
        self._late = Deadlines(self, self._attempt_late)
        self._checked = Deadlines(self, self._look_after)
        self._pre_infers = Deadlines(self, self._pre_infer_late)
        self._clients: dict[Asked, None] = {}
        self.probes = Probes(self)
        self.planner = Planner(self)
        self.branches: Counter[Branch] = Counter()
        self._failed: set[tuple[str, int]] = set()
        """Boots that this router knows not to answer, and has not heard from since."""

    @property
    def is_idle(self) -> bool:
        """No rank is under way here."""
        return not self._clients

    def die(self) -> None:
        """SIGKILL: clients' calls fail at once."""
        for call in list(self._clients):
            self.network.reply(self, call.caller, call.caller.rank_broke, call)
        super().die()

    # What the registry tells

    def feed(self, event: Event) -> None:
        """Hand an event to the core and do what it says."""
        self._perform(self.core.handle(event, self.clock_ns()))
        self._timer.arm()
        self._checks.touch(self.core)

    def triggers_changed(self, count: int) -> None:
        """So many triggers are alive."""
        self.trigger_count = max(1, count)

    # What triggers call

    def resolve(self, call: Asked, expected_ns: int, rank_on_psi_ns: int, will_admit: bool, window_ns: int) -> None:
        """Place a user."""
        request: Request = call.about
        now_ns, load = self.clock_ns(), self.core.load
        placement = self.core.resolve(request.subject, will_admit=will_admit, window_ns=window_ns, now_ns=now_ns)
        if placement is None:
            self.network.reply(self, call.caller, call.caller.resolved, call, None)
            return
        self._hold_fences(placement, ())
        record = placement.record
        queues = load.queues(record.instance_id, now_ns)
        self.branches[placement.branch] += 1
        if will_admit:
            placed = user_placed(
                placement,
                request.subject.user_hash,
                expected_ns=expected_ns,
                rank_on_psi_ns=rank_on_psi_ns,
                window_ns=window_ns,
            )
            self.feed(placed)
        if placement.pin is not None:
            self._pin(placement.pin, now_ns)
        view = InstanceView(
            record.instance_id,
            record.epoch,
            record.cost,
            queues.device_budget_bytes or record.device_budget_bytes,
            queues.backlog_ns,
            load.rank_rate_hz(record.instance_id, now_ns),
            self.trigger_count,
            load.feedback(record.instance_id),
        )
        member = self.core.members.get(record.instance_id)
        assert member is not None
        ended = tuple(self._ended.take(call.caller.name))
        resolved = Resolved(view, member.model_key, ended)
        self._checks.touch(self.core)
        self.network.reply(self, call.caller, call.caller.resolved, call, resolved)

    def pre_infer(self, call: Asked, ticket: Ticket, left_ns: int) -> None:
        """Forward a pre-infer to where its ticket says."""
        target = self.core.route_pre_infer(_ref_of(ticket))
        if isinstance(target, Refusal):
            outcome = "UNREACHABLE" if target is Refusal.UNREACHABLE else "DECLINED"
            self.network.reply(self, call.caller, call.caller.pre_infer_ended, call, outcome, None)
            return
        demand(target.epoch == ticket.epoch, "I5", f"a ticket of boot {ticket.epoch} led to {target.epoch}")
        now_ns = self.clock_ns()
        mine = Asked(
            self, call.about, now_ns + left_ns - self.settings.margin_ns, extra=(call, target), began_ns=now_ns
        )
        expected_ns = target.cost.extend_ns(ticket.chain.tokens, 0)
        mine.number = self.core.load.begin(target.instance_id, expected_ns, now_ns)
        self._pre_infers.add(mine.deadline_ns, mine)
        self.network.call(self, target.address, "pre_infer", self._pre_infer_failed, mine, ticket)

    def pre_infer_answered(self, mine: Asked, answer: PreInferAnswer) -> None:
        """The ranker's answer."""
        if mine.is_over:
            return
        mine.is_over = True
        self.core.load.end(mine.number, self.clock_ns(), answer.queues, answer.feedback)
        self._checks.touch(self.core)
        call = mine.extra[0]
        outcome = answer.acceptance.value if answer.acceptance is not None else "DECLINED"
        told = call, outcome, answer.production_ns or None, answer.ended_ticket_ids
        self.network.reply(self, call.caller, call.caller.pre_infer_ended, *told)

    def _pre_infer_failed(self, mine: Asked, ticket: Ticket) -> None:
        call, target = mine.extra
        if mine.is_over:
            return
        mine.is_over = True
        self.core.load.end(mine.number, self.clock_ns())
        self._instance_failed(target.instance_id, target.epoch)
        self.network.reply(self, call.caller, call.caller.pre_infer_ended, call, "UNREACHABLE", None)

    def _pre_infer_late(self, mine: Asked) -> None:
        call, target = mine.extra
        mine.is_over = True
        self.core.load.end(mine.number, self.clock_ns())
        if not self.core.load.has_spoken_since(target.instance_id, mine.began_ns):
            self.probes.suspect(target)
        self.network.reply(self, call.caller, call.caller.pre_infer_ended, call, "LATE", None)

    # What clients call

    def release(self, ticket: Ticket) -> None:
        """Give an abandoned request's reservation back."""
        target = self.core.route_pre_infer(_ref_of(ticket))
        if not isinstance(target, Refusal):
            self.network.call(self, target.address, "release", _nothing, ticket)
            self._ended.put(ticket.trigger_id, ticket.ticket_id)

    def rank(self, call: Asked, left_ns: int) -> None:
        """Rank on the instance bound, else on another of the same model."""
        request: Request = call.about
        self.core.load.rank_came(request.subject.user_hash)
        mine = Asked(self, request, self.clock_ns() + left_ns, extra=call)
        self._clients[call] = None
        self._attempt(mine)

    def rank_answered(self, attempt: Asked, answer: RankAnswer) -> None:
        """An instance has scored."""
        now_ns, mine = self.clock_ns(), attempt.extra[0]
        if attempt.is_over:
            return
        attempt.is_over = True
        self.core.load.end(attempt.number, now_ns, answer.queues)
        self._checks.touch(self.core)
        placement: Placement = attempt.extra[1]
        answer.branch, answer.attempts = placement.branch, len(mine.tried)
        request: Request = mine.about
        if request.ticket is not None and placement.branch is Branch.TICKET:
            self._ended.put(request.ticket.trigger_id, request.ticket.ticket_id)
        self._clients.pop(mine.extra, None)
        self.network.reply(self, mine.extra.caller, mine.extra.caller.ranked, mine.extra, answer)

    def rank_refused(self, attempt: Asked, reason: str) -> None:
        """An instance answered that it will not."""
        if attempt.is_over:
            return
        attempt.is_over = True
        record = attempt.extra[1].record
        self.core.load.end(attempt.number, self.clock_ns())
        self.core.load.heard(record.instance_id, self.clock_ns())
        if reason == "STALE":
            self._attempt(attempt.extra[0])
        else:
            self._end(attempt.extra[0], reason)

    def rank_broke(self, attempt: Asked, *_: Any) -> None:
        """The connection to an instance is gone."""
        if attempt.is_over:
            return
        attempt.is_over = True
        self.core.load.end(attempt.number, self.clock_ns())
        record = attempt.extra[1].record
        self._instance_failed(record.instance_id, record.epoch)
        self._attempt(attempt.extra[0])

    def health_answered(self, call: Asked) -> None:
        """An instance's health check."""
        self.probes.answered(call)

    # Inside

    def _attempt(self, mine: Asked) -> None:
        request, now_ns = mine.about, self.clock_ns()
        left_ns = mine.deadline_ns - now_ns - self.settings.margin_ns
        ticket = _ref_of(request.ticket) if request.ticket is not None else None
        placement = None
        if len(mine.tried) < ATTEMPTS_MAX:
            placement = self.core.route_rank(request.subject, ticket, mine.tried, now_ns)
        if placement is None or left_ns <= 0:
            self._end(mine, "LATE" if left_ns <= 0 else "UNREACHABLE")
            return
        if placement.branch is Branch.TICKET:
            is_pooled = self.settings.ablation == "remote_pool"
            is_right = is_pooled or (ticket is not None and placement.record.epoch == ticket.epoch)
            demand(is_right, "I5", f"a ticket led to boot {placement.record.epoch} of another epoch")
        self._hold_fences(placement, mine.tried)
        record = placement.record
        self.branches[placement.branch] += 1
        mine.tried.append(record.instance_id)
        attempt = Asked(self, request, now_ns + left_ns, extra=(mine, placement), began_ns=now_ns)
        behaviours = request.chain.tokens - 1
        has_psi = placement.branch is Branch.TICKET
        expected_ns = expected_rank_ns(record, behaviours, request.delta, request.candidates, has_psi=has_psi)
        attempt.number = self.core.load.begin(record.instance_id, expected_ns, now_ns, is_rank=True)
        self._late.add(attempt.deadline_ns, attempt)
        self._checked.add(now_ns + int(left_ns * CHECK_AT), attempt)
        self._checks.touch(self.core)
        self.network.call(self, record.address, "rank", self.rank_broke, attempt, request, left_ns)

    def _look_after(self, attempt: Asked) -> None:
        """A call has taken long: is its instance silent?"""
        mine, placement = attempt.extra
        record, now_ns = placement.record, self.clock_ns()
        request: Request = mine.about
        ticket = _ref_of(request.ticket) if request.ticket is not None else None
        if self.core.route_rank(request.subject, ticket, mine.tried, now_ns) is None:
            return
        patience_ns = int((attempt.deadline_ns - attempt.began_ns) * (LEAVE_AT - CHECK_AT))
        if self.core.load.has_spoken_since(record.instance_id, max(attempt.began_ns, now_ns - patience_ns)):
            return
        self.probes.suspect(record)
        self.after(patience_ns, self._leave, attempt, now_ns)

    def _leave(self, attempt: Asked, asked_ns: int) -> None:
        record = attempt.extra[1].record
        if attempt.is_over or self.probes.has_answered(record, asked_ns):
            return
        attempt.is_over = True
        self.core.load.end(attempt.number, self.clock_ns())
        self._attempt(attempt.extra[0])

    def _attempt_late(self, attempt: Asked) -> None:
        record = attempt.extra[1].record
        attempt.is_over = True
        self.core.load.end(attempt.number, self.clock_ns())
        if not self.core.load.has_spoken_since(record.instance_id, attempt.began_ns):
            self.probes.suspect(record)
        self._end(attempt.extra[0], "LATE")

    def _end(self, mine: Asked, reason: str) -> None:
        self._clients.pop(mine.extra, None)
        self.network.reply(self, mine.extra.caller, mine.extra.caller.rank_failed, mine.extra, reason)

    def _instance_failed(self, instance_id: str, epoch: int) -> None:
        self._failed.add((instance_id, epoch))
        self.feed(CallFailed(instance_id, epoch, FenceReason.UNREACHABLE))

    def heard(self, instance_id: str, epoch: int) -> None:
        """This boot answers again."""
        self._failed.discard((instance_id, epoch))

    def _hold_fences(self, placement: Placement, tried: Any) -> None:
        """One that is known to be gone is chosen only when nobody else is there."""
        record = placement.record
        if (record.instance_id, record.epoch) not in self._failed:
            return
        model_key = record.model.key
        others = [
            member
            for member in self.core.members
            if member.model_key == model_key
            and member.record.instance_id not in tried
            and (member.record.instance_id, member.record.epoch) not in self._failed
            and member.is_usable
        ]
        demand(not others, "fence", f"{record.instance_id} was chosen although it does not answer")

    def _pin(self, pin: PinUser, now_ns: int) -> None:
        self.feed(PinRead(pin.user_hash, pin.instance_id, pin.epoch, now_ns + pin.window_ns))
        self.network.call(self, "registry", "pin", _nothing, self, pin, self.unix_ns() + pin.window_ns)

    def pin_read(self, pin: PinUser, expires_unix_ns: int) -> None:
        """Another router placed a user."""
        left_ns = expires_unix_ns - self.unix_ns()
        self.feed(PinRead(pin.user_hash, pin.instance_id, pin.epoch, self.clock_ns() + left_ns))

    def _expire(self) -> None:
        self._perform(self.core.expire(self.clock_ns()))
        self._checks.touch(self.core)

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            self.kernel.note(effect)
            match effect:
                case StartProbe():
                    self.probes.start(effect)
                case ConfirmLoss():
                    self.probes.confirm(effect)
                case ForgetPeer(instance_id, epoch):
                    self.heard(instance_id, epoch)
                case ChangeMembers():
                    self.planner.look()


def _ref_of(ticket: Ticket) -> TicketRef:
    return TicketRef(ticket.instance_id, ticket.epoch, ticket.model_key)


def _nothing(*_: Any) -> None:
    """A message that nobody waits for did not arrive."""
