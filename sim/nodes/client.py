"""Clients: announce each request, rank it when its stages are over, and wait no longer than they said.

Source: design, sections 1 and 3, invariant I6; relaygr/client.
"""

from __future__ import annotations

from typing import Any

from relaygr.domain.identity import UserKey
from sim.checks import demand
from sim.kernel import MS, Kernel
from sim.messages import Asked, RankAnswer, Request, Ticket
from sim.network import Network
from sim.nodes.process import Deadlines, Process
from sim.population import Source
from sim.record import Record
from sim.settings import Settings

ABANDON_SHARE = 0.02
"""Of the requests, where things go wrong."""
SLACK_NS = 5 * MS
"""An answer may be so much later than the deadline: the way back."""


class Client(Process):
    """All clients at once, on a host that never fails."""

    def __init__(
        self, kernel: Kernel, settings: Settings, network: Network, population: Source, record: Record
    ) -> None:
        super().__init__(kernel, "client", "client-host")
        self._settings = settings
        self._network = network
        self._population = population
        self._record = record
        self._triggers = [f"trigger-{number}" for number in range(settings.triggers)]
        self._routers = [f"router-{number}" for number in range(settings.routers)]
        self._deadlines = Deadlines(self, self._rank_late)
        self._random = kernel.chance("client")
        self._abandon_share = ABANDON_SHARE if settings.has_faults else 0.0
        self.open = 0
        self.last_user: UserKey | None = None
        self.unanswered = 0
        """Ranks whose client gave up: nobody answered in time."""

    def begin(self) -> None:
        """Send the first request when it is due, which sends the next."""
        self._plan()

    def arrived(self, call: Asked, decision: str, ticket: Ticket | None) -> None:
        """The trigger's answer; one that comes after the rank was sent is of no use."""
        request: Request = call.about
        if not call.is_over and not request.is_ranking:
            call.is_over = True
            request.decision, request.ticket = decision, ticket

    def ranked(self, call: Asked, answer: RankAnswer) -> None:
        """Scores."""
        if call.is_over:
            return
        request: Request = call.about
        ticket = request.ticket
        if ticket is not None:
            is_same = answer.model_key == ticket.model_key
            demand(is_same, "model", f"a ticket of {ticket.model_key} was scored by {answer.model_key}")
        request.tier, request.fallback = answer.tier, answer.fallback
        request.instance_id, request.epoch, request.attempts = answer.instance_id, answer.epoch, answer.attempts
        self._end(call)

    def rank_failed(self, call: Asked, reason: str) -> None:
        """Refused with a reason."""
        if not call.is_over:
            call.about.error = reason
            self._end(call)

    def rank_broke(self, call: Asked) -> None:
        """The router died: the next one is asked, once."""
        if call.is_over:
            return
        self._next_router(call)

    def _plan(self) -> None:
        request = self._population.next()
        if request is not None:
            self.kernel.at(request.arrives_ns, self._arrive, request)

    def _arrive(self, request: Request) -> None:
        self._plan()
        self.open += 1
        self.last_user = request.subject.user
        self.kernel.at(request.due_ns, self._rank, request)
        if self._settings.direct_share and self._random.random() < self._settings.direct_share:
            request.decision = "DIRECT"
            return
        call = Asked(self, request, 0)
        name = self._triggers[request.index % len(self._triggers)]
        self._network.call(self, name, "arrive", self._no_trigger, call)

    def _no_trigger(self, call: Asked) -> None:
        call.is_over = True
        call.about.decision = "NO_TRIGGER"

    def _rank(self, request: Request) -> None:
        if self._abandon_share and self._random.random() < self._abandon_share:
            self._abandon(request)
            return
        timeout_ns = self._settings.rank_timeout_ns
        call = Asked(self, request, self.kernel.now_ns + timeout_ns, number=request.index)
        request.is_ranking = True
        self._deadlines.add(call.deadline_ns + SLACK_NS, call)
        self._network.call(self, self._router_of(call), "rank", self._no_router, call, timeout_ns)

    def _abandon(self, request: Request) -> None:
        """The user left: the reservation is given back."""
        request.is_ranking = True
        self.open -= 1
        if request.ticket is not None:
            router = self._routers[request.index % len(self._routers)]
            self._network.call(self, router, "release", self._no_release, request.ticket)

    def _no_release(self, *_: Any) -> None:
        """It ends with its window."""

    def _router_of(self, call: Asked) -> str:
        return self._routers[call.number % len(self._routers)]

    def _no_router(self, call: Asked, *_: Any) -> None:
        if not call.is_over:
            self._next_router(call)

    def _next_router(self, call: Asked) -> None:
        left_ns = call.deadline_ns - self.kernel.now_ns
        if len(call.tried) >= len(self._routers) or left_ns <= 0:
            call.about.error = "UNREACHABLE"
            self._end(call)
            return
        call.tried.append(self._router_of(call))
        call.number += 1
        self._network.call(self, self._router_of(call), "rank", self._no_router, call, left_ns)

    def _rank_late(self, call: Asked) -> None:
        self.unanswered += 1
        call.about.error = "NO_ANSWER"
        self._end(call)

    def _end(self, call: Asked) -> None:
        call.is_over = True
        request: Request = call.about
        request.ended_ns = self.kernel.now_ns
        request.is_over = True
        self.open -= 1
        self._record.add(request)
