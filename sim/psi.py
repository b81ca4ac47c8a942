"""What one instance owes its tickets, seen from outside the machine: survival (I1) and one producer a key (I4).

Source: design, section 5, invariants I1, I4.
"""

from __future__ import annotations

from dataclasses import dataclass

from relaygr.domain.identity import PsiKey
from services.ranker.core import effects as fx
from services.ranker.core import events as ev
from sim.messages import Ticket
from sim.violations import Violation


@dataclass(slots=True)
class _Held:
    """A ticket that the instance took."""

    key: PsiKey
    tokens: int
    until_ns: int
    is_accepted: bool = False
    is_complete: bool = False
    """Its psi was there once: from now on it must not go."""
    was_ranked: bool = False


class PsiWatch:
    """Follows one instance's effects and reports."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._tickets: dict[str, _Held] = {}
        self._by_key: dict[PsiKey, list[str]] = {}
        self._jobs: dict[int, tuple[PsiKey, int]] = {}
        self._producer: dict[PsiKey, int] = {}
        self._ranks: dict[int, str] = {}
        self._looked_up: tuple[PsiKey, int] | None = None
        self.ranked = 0
        """Accepted tickets whose rank came within the window."""
        self.survived = 0
        """Of those, ranked on psi."""

    def offered(self, ticket: Ticket, until_ns: int, now_ns: int) -> None:
        """A pre-infer came."""
        while self._tickets:
            first = next(iter(self._tickets))
            if self._tickets[first].until_ns > now_ns:
                break
            self.closed(first)
        if ticket.ticket_id not in self._tickets:
            self._tickets[ticket.ticket_id] = _Held(ticket.key, ticket.chain.tokens, until_ns)
            self._by_key.setdefault(ticket.key, []).append(ticket.ticket_id)

    def answered(self, answer: fx.Accept | fx.Decline) -> None:
        """The instance accepted or declined."""
        held = self._tickets.get(answer.ticket_id)
        if held is None:
            return
        if isinstance(answer, fx.Decline):
            if not held.is_accepted:
                self.closed(answer.ticket_id)
            return
        held.is_accepted = True
        held.is_complete = held.is_complete or answer.how is fx.Acceptance.RESIDENT

    def closed(self, ticket_id: str) -> None:
        """A ticket holds nothing any more."""
        held = self._tickets.pop(ticket_id, None)
        if held is not None:
            others = self._by_key[held.key]
            others.remove(ticket_id)
            if not others:
                del self._by_key[held.key]

    def began(self, job_id: int, key: PsiKey, target_tokens: int) -> None:
        """A lookup or a compute begins.

        Raises:
            Violation: another job works on the same key (I4).
        """
        other = self._producer.setdefault(key, job_id)
        if other != job_id:
            raise Violation("I4", f"{self._name}: jobs {other} and {job_id} both produce {key}")
        self._jobs[job_id] = key, target_tokens

    def reloading(self, job_id: int, tokens: int) -> None:
        """The reload that follows the lookup just ended."""
        assert self._looked_up is not None
        self.began(job_id, self._looked_up[0], tokens)

    def fed(self, event: ev.Event) -> None:
        """The machine is told something."""
        match event:
            case ev.ChunkEnded(job_id, tokens):
                key, target = self._jobs.get(job_id, (None, 0))
                if key is not None:
                    self._grown(key, tokens)
                    if tokens >= target:
                        self._over(job_id)
            case ev.LookupEnded(job_id):
                self._looked_up = self._jobs.get(job_id)
                self._over(job_id)
            case ev.ReloadEnded(job_id, is_ok):
                key, tokens = self._jobs.get(job_id, (None, 0))
                if key is not None and is_ok:
                    self._grown(key, tokens)
                self._over(job_id)
            case ev.ProductionFailed(job_id):
                self._over(job_id)
            case ev.UserForgotten(owner):
                for ticket_id in [one for one, held in self._tickets.items() if held.key.owner == owner]:
                    self.closed(ticket_id)
            case ev.RankEnded(rank_id):
                self.closed(self._ranks.pop(rank_id, ""))
            case ev.RankAbandoned(rank_id):
                self._ranks.pop(rank_id, None)
            case ev.TicketReleased(ticket_id):
                self.closed(ticket_id)
            case _:
                pass

    def asked(self, rank_id: int, ticket_id: str | None) -> None:
        """A rank came."""
        if ticket_id is not None:
            self._ranks[rank_id] = ticket_id

    def placed(self, rank_id: int, placement: fx.RankOnPsi | fx.RankInFull, now_ns: int) -> None:
        """A rank was told where its prefix is.

        Raises:
            Violation: psi that its ticket held is gone (I1).
        """
        held = self._tickets.get(self._ranks.get(rank_id, ""))
        if held is None or not held.is_accepted or held.until_ns <= now_ns:
            return
        is_on_psi = isinstance(placement, fx.RankOnPsi)
        if not held.was_ranked:
            held.was_ranked = True
            self.ranked += 1
            self.survived += is_on_psi
        if held.is_complete and not is_on_psi:
            raise Violation("I1", f"{self._name}: psi of {held.key} did not survive: {placement}")

    @property
    def is_idle(self) -> bool:
        """No job and no rank is under way."""
        return not self._producer and not self._ranks

    def _grown(self, key: PsiKey, tokens: int) -> None:
        for ticket_id in self._by_key.get(key, ()):
            held = self._tickets[ticket_id]
            held.is_complete = held.is_complete or tokens >= held.tokens

    def _over(self, job_id: int) -> None:
        job = self._jobs.pop(job_id, None)
        if job is not None and self._producer.get(job[0]) == job_id:
            del self._producer[job[0]]
