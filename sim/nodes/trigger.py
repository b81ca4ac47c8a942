"""A trigger: the production admission, asked as its service asks it.

Source: design, section 3 (trigger); services/trigger/{arrival,service}.py.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from relaygr.domain.identity import PsiKey
from services.trigger.core.admission import Admission
from services.trigger.core.effects import Admit, Decline, Effect, EndReservation, PassBy
from services.trigger.core.events import Arrived, Demand, Event, InstanceView, Outcome, PreInferAnswered, TicketsEnded
from sim.checks import Checks, demand
from sim.kernel import Kernel
from sim.messages import Asked, Request, Resolved, Ticket
from sim.network import Network
from sim.nodes.process import Deadlines, Process, Timer
from sim.settings import Settings

_OUTCOMES = {
    "STARTED": Outcome.STARTED,
    "RESIDENT": Outcome.RESIDENT,
    "JOINED": Outcome.JOINED,
    "DECLINED": Outcome.DECLINED,
}


class Trigger(Process):
    """One boot of one trigger. `routers` are the names it calls, the first one first."""

    def __init__(
        self,
        kernel: Kernel,
        name: str,
        host: str,
        *,
        admission: type[Admission],
        settings: Settings,
        network: Network,
        checks: Checks,
        routers: list[str],
        offset_ns: int = 0,
        skew_ns: int = 0,
    ) -> None:
        super().__init__(kernel, name, host, offset_ns=offset_ns, skew_ns=skew_ns)
        self.settings = settings
        self.core = admission(settings.rules)
        self._network = network
        self._checks = checks
        self._routers = routers
        self._timer = Timer(self, self.core, self._expire)
        self._resolves = Deadlines(self, self._resolve_late)
        self._pre_infers = Deadlines(self, self._pre_infer_late)
        self._decided: Admit | Decline | PassBy | None = None
        self._last_seen: InstanceView | None = None
        self._tickets = 0
        self._open: dict[str, None] = {}
        """Tickets whose reservation has not ended: each ends once (I7)."""
        self.decisions: Counter[str] = Counter()

    @property
    def is_idle(self) -> bool:
        """No reservation is left."""
        return not self._open and not self.core.holdings.open_tickets

    def arrive(self, call: Asked) -> None:
        """Ask where the user is, telling what the last known instance's costs foretell."""
        request: Request = call.about
        expected_ns, rank_on_psi_ns, will_admit = 0, 0, True
        if self._last_seen is not None:
            wanted = self._demand(request)
            seen = self.core.foresee(wanted, self._last_seen)
            expected_ns, rank_on_psi_ns = seen.full_ns, seen.rank_on_psi_ns
            will_admit = self.core.would_admit(wanted, seen)
        mine = Asked(self, request, self.clock_ns() + self.settings.resolve_timeout_ns, extra=(call, self._routers[0]))
        self._resolves.add(mine.deadline_ns, mine)
        message = (mine, expected_ns, rank_on_psi_ns, will_admit, self.settings.window_ns)
        self._network.call(self, self._routers[0], "resolve", self._resolve_failed, *message)

    def resolved(self, mine: Asked, found: Resolved | None) -> None:
        """Where the user is bound."""
        if mine.is_over:
            return
        mine.is_over = True
        call, request = mine.extra[0], mine.about
        if found is None:
            self._answer(call, "NO_INSTANCE")
            return
        self._last_seen = found.view
        if found.ended_ticket_ids:
            self._feed(TicketsEnded(found.ended_ticket_ids))
        self._tickets += 1
        ticket_id = f"{self.name}/{self._tickets}"
        self._feed(Arrived(ticket_id, self._demand(request), found.view))
        decided, self._decided = self._decided, None
        assert decided is not None, "each arrival is decided at once"
        ticket = None
        if isinstance(decided, Admit):
            ticket = self._ticket(decided, request, found)
            self._send(ticket, request)
        self._answer(call, _name_of(decided), ticket)

    def pre_infer_ended(
        self, mine: Asked, outcome: str, production_ns: int | None, ended_ticket_ids: tuple[str, ...] = ()
    ) -> None:
        """What became of a pre-infer, and tickets that have ended."""
        if ended_ticket_ids:
            self._feed(TicketsEnded(ended_ticket_ids))
        if not mine.is_over:
            mine.is_over = True
            self._feed(PreInferAnswered(mine.extra, _OUTCOMES.get(outcome, Outcome.UNREACHABLE), production_ns))

    def _resolve_failed(self, mine: Asked, *_: Any) -> None:
        if not mine.is_over:
            self._resolve_late(mine)

    def _resolve_late(self, mine: Asked) -> None:
        mine.is_over = True
        self._lost(mine.extra[1])
        self._answer(mine.extra[0], "NO_INSTANCE")

    def _pre_infer_failed(self, mine: Asked, *_: Any) -> None:
        self._lost(self._routers[0])
        self.pre_infer_ended(mine, "UNREACHABLE", None)

    def _pre_infer_late(self, mine: Asked) -> None:
        self.pre_infer_ended(mine, "UNREACHABLE", None)

    def _lost(self, router: str) -> None:
        """The next router is asked from now on."""
        if router == self._routers[0]:
            self._routers.append(self._routers.pop(0))

    def _send(self, ticket: Ticket, request: Request) -> None:
        timeout_ns = min(self.settings.pre_infer_timeout_ns, self.settings.window_ns)
        mine = Asked(self, request, self.clock_ns() + timeout_ns, extra=ticket.ticket_id)
        self._pre_infers.add(mine.deadline_ns, mine)
        self._network.call(self, self._routers[0], "pre_infer", self._pre_infer_failed, mine, ticket, timeout_ns)

    def _ticket(self, admit: Admit, request: Request, found: Resolved) -> Ticket:
        return Ticket(
            admit.ticket_id,
            request.user,
            admit.instance_id,
            admit.epoch,
            found.model_key,
            PsiKey(request.subject.user, found.model_key, request.anchor),
            request.chain,
            self.unix_ns() + admit.window_ns,
            self.name,
        )

    def _answer(self, call: Asked, decision: str, ticket: Ticket | None = None) -> None:
        self.decisions[decision] += 1
        self._network.reply(self, call.caller, call.caller.arrived, call, decision, ticket)

    def _demand(self, request: Request) -> Demand:
        settings = self.settings
        budget_ns = settings.profile.slo.rank_ms * 1e6
        return Demand(
            request.chain.tokens,
            settings.profile.traffic.delta_most,
            request.candidates,
            int(budget_ns * (1.0 - settings.rank_overhead_share)),
            settings.time_to_rank_ns,
            settings.window_ns,
        )

    def _feed(self, event: Event) -> None:
        self._perform(self.core.handle(event, self.clock_ns()))
        self._timer.arm()
        self._checks.touch(self.core)

    def _expire(self) -> None:
        self._perform(self.core.expire(self.clock_ns()))
        self._checks.touch(self.core)

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            self.kernel.note(effect)
            match effect:
                case EndReservation(ticket_id):
                    demand(ticket_id in self._open, "I7", f"{ticket_id} ended twice")
                    del self._open[ticket_id]
                case _:
                    self._decided = effect
                    if isinstance(effect, Admit):
                        self._open[effect.ticket_id] = None


def _name_of(decided: Admit | Decline | PassBy) -> str:
    match decided:
        case Admit():
            return "ADMITTED"
        case PassBy():
            return "FITS_BUDGET"
        case Decline():
            return decided.reason.value
