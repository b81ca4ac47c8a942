"""Open tickets, and a bounded memory of how closed ones ended.

The memory serves messages that come late or out of order: a pre-infer after its rank, a
rank after its window. What has fallen out of it is treated as never seen, which costs
speed and never correctness.

Source: design, section 3 (ranker), invariants I3, I7.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from relaygr.domain.chain import Chain
from services.ranker.core.effects import DeclineReason, FallbackReason


class Closing(Enum):
    """How a ticket ended."""

    CONSUMED = "consumed"
    RELEASED = "released"
    EXPIRED = "expired"
    DECLINED = "declined"
    FORGOTTEN = "forgotten"
    RANKED_FIRST = "ranked first"
    """Its rank came before its pre-infer."""


FALLBACK_OF = {
    Closing.CONSUMED: FallbackReason.ABSENT,
    Closing.RELEASED: FallbackReason.ABSENT,
    Closing.EXPIRED: FallbackReason.EXPIRED,
    Closing.DECLINED: FallbackReason.DECLINED,
    Closing.FORGOTTEN: FallbackReason.FORGOTTEN,
    Closing.RANKED_FIRST: FallbackReason.ABSENT,
}

DECLINE_OF = {
    Closing.CONSUMED: DeclineReason.EXPIRED,
    Closing.RELEASED: DeclineReason.EXPIRED,
    Closing.EXPIRED: DeclineReason.EXPIRED,
    Closing.DECLINED: None,
    Closing.FORGOTTEN: DeclineReason.FORGOTTEN,
    Closing.RANKED_FIRST: DeclineReason.EXPIRED,
}
"""What a pre-infer of a closed ticket gets; a declined one may try again."""


@dataclass(slots=True, eq=False)
class Ticket:
    """An open ticket: it holds its entry until it closes."""

    ticket_id: str
    entry_id: int
    chain: Chain
    window_end_ns: int
    need_tokens: int
    """What it still waits for or holds; less than its chain once its production has failed.
    The entry agrees with its chain up to there."""
    is_reloaded: bool = False
    """Its production took tokens from DRAM."""
    was_answered: bool = False
    """A rank with this ticket has been answered."""


@dataclass(slots=True, eq=False)
class ClosedTicket:
    """What is remembered of a ticket that is not open."""

    closing: Closing
    was_answered: bool


class TicketBook:
    """Open tickets by id, and closed ones in the order of closing."""

    def __init__(self, tickets_max: int):
        self.tickets_max = tickets_max
        self.closed_max = 4 * tickets_max
        self.open: dict[str, Ticket] = {}
        self.closed: dict[str, ClosedTicket] = {}

    @property
    def is_full(self) -> bool:
        """True when no ticket can be opened."""
        return len(self.open) >= self.tickets_max

    def add(self, ticket: Ticket) -> None:
        """Open a ticket; a decline before it is forgotten."""
        assert not self.is_full and ticket.ticket_id not in self.open
        known = self.closed.pop(ticket.ticket_id, None)
        ticket.was_answered = known is not None and known.was_answered
        self.open[ticket.ticket_id] = ticket

    def close(self, ticket_id: str, closing: Closing) -> Ticket:
        """End an open ticket."""
        ticket = self.open.pop(ticket_id)
        self._remember(ticket_id, ClosedTicket(closing, ticket.was_answered))
        return ticket

    def note(self, ticket_id: str, closing: Closing) -> None:
        """Remember how a ticket that is not open ended; what is known already stays."""
        assert ticket_id not in self.open
        known = self.closed.get(ticket_id)
        if known is None or known.closing in (Closing.DECLINED, Closing.RANKED_FIRST):
            self._remember(ticket_id, ClosedTicket(closing, known is not None and known.was_answered))

    def unnote(self, ticket_id: str, closing: Closing) -> None:
        """Take a note back, if it still says so."""
        known = self.closed.get(ticket_id)
        if known is not None and known.closing == closing:
            del self.closed[ticket_id]

    def closing_of(self, ticket_id: str) -> Closing | None:
        """How a ticket ended; None when it is open or unknown."""
        known = self.closed.get(ticket_id)
        return None if known is None else known.closing

    def first_answer(self, ticket_id: str) -> bool:
        """True once per ticket: when its first rank is answered."""
        record = self.open.get(ticket_id) or self.closed.get(ticket_id)
        if record is None or record.was_answered:
            return False
        record.was_answered = True
        return True

    def _remember(self, ticket_id: str, record: ClosedTicket) -> None:
        self.closed.pop(ticket_id, None)
        while len(self.closed) >= self.closed_max:
            del self.closed[next(iter(self.closed))]
        self.closed[ticket_id] = record
