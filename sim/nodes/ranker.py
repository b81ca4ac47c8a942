"""An instance: the production residency and schedule, a device and a DRAM tier that take virtual time.

Source: design, section 3 (ranker), invariants I1, I4, I5, I6; services/ranker/{service,engine,production}.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from math import exp

from relaygr.domain.cost import CostModel
from relaygr.domain.ended import EndedTickets
from relaygr.domain.identity import PsiKey
from relaygr.domain.instance import InstanceRecord, InstanceState
from services.ranker.core import effects as fx
from services.ranker.core import events as ev
from services.ranker.core.costs import CostWatch
from services.ranker.core.eviction import LeastWorth
from services.ranker.core.jobs import placed_by_ns, production_job_id, rank_job, rank_job_id
from services.ranker.core.observed import Observed
from services.ranker.core.residency import Residency
from services.router.core.load import Queues
from sim.chains import LogChain
from sim.checks import Checks
from sim.device import Device, Task
from sim.kernel import Kernel
from sim.memory import DeviceMemory
from sim.messages import Asked, PreInferAnswer, RankAnswer, Request, Ticket
from sim.network import Network
from sim.nodes.dram import Dram
from sim.nodes.expander import Expander
from sim.nodes.process import Deadlines, Process, Timer
from sim.nodes.productions import Productions
from sim.psi import PsiWatch
from sim.settings import Settings


class Ranker(Process):
    """One boot of one instance."""

    residency: type[Residency] = Residency

    def __init__(
        self,
        kernel: Kernel,
        name: str,
        host: str,
        *,
        record: InstanceRecord,
        settings: Settings,
        network: Network,
        checks: Checks,
        expander: Callable[[], Expander | None] | None,
        offset_ns: int = 0,
        skew_ns: int = 0,
    ) -> None:
        super().__init__(kernel, name, host, offset_ns=offset_ns, skew_ns=skew_ns)
        self.settings = settings
        self.record = record
        self.epoch = record.epoch
        self.model_key = record.model.key
        self.memory = DeviceMemory()
        self.true_cost: CostModel = record.cost
        self._network = network
        self.is_watched = checks.is_full
        """Whether memory is followed page by page."""
        self._checks = checks
        self._random = kernel.chance(f"{name}/{record.epoch}")
        self.device = Device(
            self,
            self._random,
            jobs_max=settings.jobs_max,
            layers=settings.layers,
            loop_ns=settings.loop_ns,
        )
        page_bytes = 128 * settings.cost.token_bytes
        self.core = self.residency(
            pages_total=settings.device_budget_bytes // page_bytes,
            tickets_max=settings.tickets_max,
            entries_max=settings.entries_max,
            ranks_max=settings.jobs_max,
            spills_max=settings.spills_max,
            tombstone_ns=settings.tombstone_ns,
            cost=record.cost,
            rest_tokens=settings.rest_tokens,
            policy=LeastWorth(),
        )
        self.costs = CostWatch(record.cost)
        self.observed = Observed()
        self._ended = EndedTickets()
        self.psi = PsiWatch(name)
        self._timer = Timer(self, self.core, self._expire)
        self._deadlines = Deadlines(self, self._rank_late)
        self._answer: fx.Accept | fx.Decline | None = None
        self._rank_budget_ns = int(settings.profile.slo.rank_ms * 1e6 * (1.0 - settings.rank_overhead_share))
        self._ranks: dict[int, Asked] = {}
        self._rank_ids = 0
        self._pending: deque[ev.Event] = deque()
        self._is_feeding = False
        self._coming_ns: dict[int, int] = {}
        self._router_calls: dict[Asked, None] = {}
        self.productions = Productions(self)
        self.dram = Dram(self, expander) if expander is not None else None
        self.changed: Callable[[Ranker], None] = lambda ranker: None
        """Told when the record changed."""

    @property
    def is_draining(self) -> bool:
        """Takes no new pre-infers."""
        return self.record.state is InstanceState.DRAINING

    @property
    def is_idle(self) -> bool:
        """No rank waits, nothing runs, nothing is copied."""
        return not self._ranks and self.device.is_idle and (self.dram is None or self.dram.is_idle)

    def copy_noise(self) -> float:
        """How many times as long as predicted a copy takes."""
        return exp(self._random.gauss(0.0, 0.1))

    def drain(self, *, is_on: bool) -> None:
        """Take no pre-infers any more, or again."""
        state = InstanceState.DRAINING if is_on else InstanceState.READY
        self.record = replace(self.record, state=state)
        self.feed(ev.DrainSet(is_on))
        self.changed(self)

    def die(self) -> None:
        """SIGKILL: calls under way fail at once."""
        for call in list(self._router_calls):
            self._network.reply(self, call.caller, call.caller.rank_broke, call)
        super().die()

    # What routers call

    def health(self, call: Asked) -> None:
        """Anybody who answers serves."""
        self._network.reply(self, call.caller, call.caller.health_answered, call)

    def pre_infer(self, call: Asked, ticket: Ticket) -> None:
        """Accept or decline; the work runs on."""
        answer = self._decided(ticket)
        acceptance = answer.how if isinstance(answer, fx.Accept) else None
        reason = answer.reason if isinstance(answer, fx.Decline) else None
        production_ns = 0
        if isinstance(answer, fx.Accept) and answer.how is fx.Acceptance.STARTED:
            missing = ticket.chain.tokens - answer.begins_tokens
            production_ns = self.record.cost.extend_ns(missing, answer.begins_tokens)
        if acceptance is not None:
            call.about.is_accepted = True
        feedback = self.observed.feedback(self.core.snapshot().counters)
        ended = tuple(self._ended.take(ticket.trigger_id))
        replied = PreInferAnswer(acceptance, reason, self.load(), production_ns, feedback, ended)
        self._network.reply(self, call.caller, call.caller.pre_infer_answered, call, replied)

    def release(self, ticket: Ticket) -> None:
        """A request was abandoned."""
        self.psi.closed(ticket.ticket_id)
        self._ended.put(ticket.trigger_id, ticket.ticket_id)
        self.feed(ev.TicketReleased(ticket.ticket_id))

    def rank(self, call: Asked, request: Request, left_ns: int) -> None:
        """Score; losing psi is never an error."""
        now_ns, ticket = self.clock_ns(), request.ticket
        self.observed.rank_asked(now_ns)
        if ticket is not None and ticket.model_key != self.model_key:
            self._network.reply(self, call.caller, call.caller.rank_refused, call, "STALE")
            return
        self._rank_ids += 1
        mine = Asked(call.caller, request, now_ns + left_ns, number=self._rank_ids, extra=call)
        self._router_calls[call] = None
        is_foreign = ticket is not None and self._is_foreign(ticket)
        ticket_id = self._ticket_id_of(request, is_foreign=is_foreign)
        mine.tried = ["FOREIGN"] if is_foreign else []
        self._ranks[mine.number] = mine
        self._deadlines.add(mine.deadline_ns, mine)
        chain, key = request.chain, self._key_of(request)
        self.psi.asked(mine.number, ticket_id)
        by_ns = placed_by_ns(mine.deadline_ns, now_ns)
        suffix, mine.due_ns = request.delta + request.candidates, now_ns + self._rank_budget_ns
        self.feed(ev.RankAsked(mine.number, key, chain, ticket_id, by_ns, suffix, mine.due_ns))

    # The machine

    def feed(self, event: ev.Event) -> None:
        """Hand an event to the machine; one from within an effect waits until the effects before it are done."""
        self._pending.append(event)
        if self._is_feeding:
            return
        self._is_feeding = True
        try:
            while self._pending:
                event = self._pending.popleft()
                self.psi.fed(event)
                for effect in self.core.handle(event, self.clock_ns()):
                    self._perform(effect)
        finally:
            self._is_feeding = False
        self._timer.arm()
        self._checks.touch(self.core)

    def load(self) -> Queues:
        """The device's queues, with what it is about to be asked for."""
        queues, used = self.device.load(), self.core.snapshot().used_pages
        backlog_ns = queues.backlog_ns + sum(self._coming_ns.values())
        pre_infers = queues.pre_infer_jobs + len(self._coming_ns)
        page_bytes = 128 * self.settings.cost.token_bytes
        return Queues(
            queues.rank_jobs,
            queues.full_jobs,
            pre_infers,
            int(self.costs.factor * backlog_ns),
            used * page_bytes,
            self.record.device_budget_bytes,
            self.observed.rank_rate_hz(self.clock_ns()),
            int(self.costs.factor * queues.aside_ns),
        )

    def _expire(self) -> None:
        self._is_feeding = True
        try:
            for effect in self.core.expire(self.clock_ns()):
                self._perform(effect)
        finally:
            self._is_feeding = False
        self._checks.touch(self.core)
        if self._pending:
            self.feed(self._pending.popleft())

    def _decided(self, ticket: Ticket) -> fx.Accept | fx.Decline:
        if self._is_foreign(ticket):
            return fx.Decline(ticket.ticket_id, fx.DeclineReason.FOREIGN_TICKET)
        left_ns = ticket.expires_unix_ns - self.unix_ns()
        if left_ns <= 0:
            return fx.Decline(ticket.ticket_id, fx.DeclineReason.EXPIRED)
        until_ns = self.clock_ns() + left_ns
        self.psi.offered(ticket, until_ns, self.clock_ns())
        self.feed(ev.PreInferAsked(ticket.ticket_id, ticket.key, ticket.chain, until_ns, ""))
        answer, self._answer = self._answer, None
        assert answer is not None, "each pre-infer is answered at once"
        return answer

    def _is_foreign(self, ticket: Ticket) -> bool:
        return (ticket.instance_id, ticket.epoch, ticket.model_key) != (self.name, self.epoch, self.model_key)

    def _ticket_id_of(self, request: Request, *, is_foreign: bool) -> str | None:
        return request.ticket.ticket_id if request.ticket is not None and not is_foreign else None

    def _key_of(self, request: Request) -> PsiKey:
        return PsiKey(request.subject.user, self.model_key, request.anchor)

    def _perform(self, effect: fx.Effect) -> None:
        self.kernel.note(effect)
        match effect:
            case fx.Accept() | fx.Decline():
                self._answer = effect
                self.psi.answered(effect)
            case fx.RankOnPsi(rank_id) | fx.RankInFull(rank_id):
                self._placed(rank_id, effect)
            case fx.StartCompute():
                self.productions.compute(effect)
            case fx.StartLookup(job_id, key, chain):
                self.psi.began(job_id, key, 0)
                if self.dram is None or not self.dram.may_find(key):
                    self._coming_ns[job_id] = self.record.cost.extend_ns(chain.token_count, 0)
                    self.after(0, self._not_found, job_id)
                else:
                    self.dram.look_up(effect)
            case fx.PromoteProduction(job_id, deadline_ns, due_ns):
                self.device.promote(production_job_id(job_id), deadline_ns, due_ns)
            case fx.DemoteProduction(job_id):
                self.device.demote(production_job_id(job_id))
            case fx.CancelProduction(job_id):
                if self.dram is not None:
                    self.dram.give_up(job_id)
                self.device.cancel(production_job_id(job_id))
            case _:
                self._perform_dram(effect)

    def _perform_dram(self, effect: fx.Effect) -> None:
        dram = self.dram
        match effect:
            case fx.ForgetDram(owner):
                if dram is not None:
                    dram.forget(owner)
            case fx.StartReload(job_id, _, tokens):
                assert dram is not None
                self.psi.reloading(job_id, tokens)
                dram.reload(effect)
            case fx.AbandonLookup(job_id):
                assert dram is not None
                dram.abandon(job_id)
            case fx.GiveUpReload(job_id):
                assert dram is not None
                dram.give_up(job_id)
            case fx.StartSpill():
                assert dram is not None
                dram.spill(effect)
            case _:
                raise AssertionError(f"not performed: {effect}")

    def _not_found(self, job_id: int) -> None:
        self._coming_ns.pop(job_id, None)
        self.feed(ev.LookupEnded(job_id, 0, b""))

    @property
    def costs_alone(self) -> CostModel:
        """The model measured at start, by which jobs' expected times are known."""
        return self.true_cost

    # Ranks

    def _placed(self, rank_id: int, placement: fx.RankOnPsi | fx.RankInFull) -> None:
        call = self._ranks.get(rank_id)
        self.psi.placed(rank_id, placement, self.clock_ns())
        if call is None:
            self.after(0, self.feed, ev.RankAbandoned(rank_id))
            return
        call.is_placed = True
        request: Request = call.about
        chain, key = request.chain, self._key_of(request)
        covered = placement.tokens if isinstance(placement, fx.RankOnPsi) else 0
        if isinstance(placement, fx.RankOnPsi) and self.is_watched:
            self.memory.lease(placement.page_ids, key)
            self.memory.read(placement.page_ids, key, chain, covered)
        rest = chain.tokens - covered + request.delta
        job = rank_job(self.costs_alone, rank_id, request.candidates, rest, covered, call.deadline_ns, call.due_ns)
        took_ns = int(job.expected_ns * self.device.noise(self.true_cost.relative_error))
        task = Task(job, [max(1, took_ns)], self._ranked, (call, placement, chain))
        if not self.device.submit(task):
            if isinstance(placement, fx.RankOnPsi) and self.is_watched:
                self.memory.let_go(placement.page_ids, key)
            self.after(0, self.feed, ev.RankAbandoned(rank_id))
            self._refuse(call, "REFUSED")

    def _ranked(
        self,
        ranked: tuple[Asked, fx.RankOnPsi | fx.RankInFull, LogChain],
        is_done: bool,
        spent_ns: int,
        chunks: int,
    ) -> None:
        call, placement, chain = ranked
        request: Request = call.about
        if isinstance(placement, fx.RankOnPsi) and self.is_watched:
            self.memory.let_go(placement.page_ids, self._key_of(request))
            # Until its end: a lease that ended early would let somebody else write.
            self.memory.read(placement.page_ids, self._key_of(request), chain, placement.tokens)
        if is_done:
            covered = placement.tokens if isinstance(placement, fx.RankOnPsi) else 0
            rest = chain.tokens - covered + request.delta
            expected_ns = self.costs_alone.rank_ns(request.candidates, rest, covered)
            self.worked(expected_ns, spent_ns)
        if not call.is_over:
            if is_done:
                self._reply(call, placement)
            else:
                self._refuse(call, "LATE")
        self.feed(ev.RankEnded(call.number))

    def _rank_late(self, call: Asked) -> None:
        """The deadline has passed."""
        self._refuse(call, "LATE")
        if call.is_placed:
            self.device.cancel(rank_job_id(call.number))
        else:
            self.feed(ev.RankAbandoned(call.number))

    def _reply(self, call: Asked, placement: fx.RankOnPsi | fx.RankInFull) -> None:
        is_on_psi = isinstance(placement, fx.RankOnPsi)
        tier = placement.tier.value if isinstance(placement, fx.RankOnPsi) else "FULL"
        fallback = "" if isinstance(placement, fx.RankOnPsi) else placement.reason.value
        if call.tried and not is_on_psi:
            fallback = "FOREIGN_TICKET"
        record = self.record
        answer = RankAnswer(tier, fallback, record.instance_id, record.epoch, self.model_key, self.load())
        request: Request = call.about
        if request.ticket is not None and not call.tried:
            self._ended.put(request.ticket.trigger_id, request.ticket.ticket_id)
        self._over(call)
        self._network.reply(self, call.caller, call.caller.rank_answered, call.extra, answer)

    def _refuse(self, call: Asked, reason: str) -> None:
        self._over(call)
        self._network.reply(self, call.caller, call.caller.rank_refused, call.extra, reason)

    def _over(self, call: Asked) -> None:
        call.is_over = True
        self._ranks.pop(call.number, None)
        self._router_calls.pop(call.extra, None)

    def worked(self, expected_ns: int, measured_ns: int) -> None:
        """A job has ended: what it says of the costs is published."""
        cost = self.costs.ended(expected_ns, measured_ns)
        if cost is not None:
            self.record = replace(self.record, cost=cost)
            self.core.use_costs(cost)
            self.changed(self)
