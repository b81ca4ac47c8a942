"""Tickets that ended before their window, kept until their trigger asks next.

A trigger sees no ranks, so by itself it must count a ticket's bytes until the window closes, which
is many times as long as psi is needed. The router that carried the rank tells it, and so does the instance, which
sees the ranks of all routers and clients. Losing one costs speed: it ends with its window.

Source: design, section 3 (trigger), invariants I1, I3.
"""

from __future__ import annotations

from collections import deque

TRIGGERS_MAX = 64
TICKETS_MAX = 1024
"""Of one trigger; the oldest go first."""
TAKEN_MAX = 64
"""Handed out at once."""


class EndedTickets:
    """By trigger, the one that was told of longest ago first."""

    def __init__(self, *, triggers_max: int = TRIGGERS_MAX, tickets_max: int = TICKETS_MAX) -> None:
        assert min(triggers_max, tickets_max) > 0
        self._triggers_max = triggers_max
        self._tickets_max = tickets_max
        self._tickets: dict[str, deque[str]] = {}

    def put(self, trigger_id: str, ticket_id: str) -> None:
        """A ticket has ended; nothing is kept of one that no trigger signed."""
        if not trigger_id:
            return
        tickets = self._tickets.pop(trigger_id, None)
        if tickets is None:
            tickets = deque(maxlen=self._tickets_max)
            if len(self._tickets) >= self._triggers_max:
                del self._tickets[next(iter(self._tickets))]
        tickets.append(ticket_id)
        self._tickets[trigger_id] = tickets

    def take(self, trigger_id: str) -> list[str]:
        """Those not handed out yet, some at a time."""
        tickets = self._tickets.get(trigger_id)
        if not tickets:
            return []
        return [tickets.popleft() for _ in range(min(TAKEN_MAX, len(tickets)))]

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Of each table, what is in it and the most that may be."""
        tickets = sum(map(len, self._tickets.values()))
        return {
            "ended.triggers": (len(self._tickets), self._triggers_max),
            "ended.tickets": (tickets, self._triggers_max * self._tickets_max),
        }
