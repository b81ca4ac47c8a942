"""Whether a pre-infer is accepted, and how. Its pages are reserved before anything is computed.

Psi that misses fewer than `rest_tokens` of a history is taken as it is, see decision 13.

Source: design, section 3 (ranker), invariant I1.
"""

from __future__ import annotations

from services.ranker.core.books import AlarmKind, Books
from services.ranker.core.effects import Accept, Acceptance, Decline, DeclineReason
from services.ranker.core.entries import Entry
from services.ranker.core.events import PreInferAsked
from services.ranker.core.holding import Holding
from services.ranker.core.lifecycle import HAS_JOB, Cause
from services.ranker.core.matching import agrees, usable_tokens
from services.ranker.core.tickets import DECLINE_OF, Closing, Ticket


class Asking:
    """Opens tickets."""

    def __init__(self, books: Books, holding: Holding):
        self._books = books
        self._holding = holding

    def ask(self, event: PreInferAsked, now_ns: int) -> Entry | None:
        """Accept or decline. Returns the entry whose goal may have risen."""
        known = self._books.tickets.open.get(event.ticket_id)
        refusal = self._refusal(event, now_ns)
        if refusal is None and known is not None:
            self._accept(event, self._repeated(known))
            return None
        placed = refusal or self._place(event)
        if isinstance(placed, DeclineReason):
            self._decline(event, placed)
            return None
        entry, how, begins_tokens = placed
        need = min(event.chain.token_count, entry.promised_tokens)
        ticket = Ticket(event.ticket_id, entry.entry_id, event.chain, event.window_end_ns, need)
        ticket.is_reloaded = how != Acceptance.RESIDENT and entry.state in HAS_JOB and entry.is_reloaded
        self._books.tickets.add(ticket)
        self._books.alarms.set((AlarmKind.WINDOW, event.ticket_id), event.window_end_ns)
        if how == Acceptance.STARTED:
            entry.asked_trace = event.producer_trace
        self._accept(event, how, begins_tokens)
        return entry

    def _refusal(self, event: PreInferAsked, now_ns: int) -> DeclineReason | None:
        """What is known to be refused before looking for psi."""
        tickets = self._books.tickets
        closing = tickets.closing_of(event.ticket_id)
        if event.window_end_ns <= now_ns:
            return DeclineReason.EXPIRED
        if closing is not None and DECLINE_OF[closing] is not None:
            return DECLINE_OF[closing]
        if self._books.is_forgotten(event.key.owner):
            return DeclineReason.FORGOTTEN
        if event.ticket_id in tickets.open:
            held = self._books.entries.by_id[tickets.open[event.ticket_id].entry_id]
            return None if held.key == event.key else DeclineReason.FOREIGN_TICKET
        if self._books.is_draining:
            return DeclineReason.DRAINING
        return DeclineReason.OVERLOADED if tickets.is_full else None

    def _place(self, event: PreInferAsked) -> tuple[Entry, Acceptance, int] | DeclineReason:
        """Find or make the entry, with its pages, held by the ticket; and the tokens that need no new work."""
        entry = self._books.entries.by_key.get(event.key)
        if entry is not None and not agrees(entry.chain, entry.reach_tokens, event.chain):
            if not entry.is_idle:
                return DeclineReason.DIVERGED
            entry = self._cut_back(entry, event)
        if entry is None:
            return self._create(event)
        entry.tickets[event.ticket_id] = None
        self._holding.refresh(entry)
        begins_tokens = entry.promised_tokens
        how = self._raise_goal(entry, event)
        if isinstance(how, DeclineReason):
            del entry.tickets[event.ticket_id]
            self._holding.refresh(entry)
            return how
        return entry, how, begins_tokens

    def _raise_goal(self, entry: Entry, event: PreInferAsked) -> Acceptance | DeclineReason:
        """Make an entry's goal cover what is asked."""
        asked = event.chain.token_count
        if asked <= entry.tokens:
            return Acceptance.RESIDENT
        if asked <= entry.promised_tokens:
            entry.goal_tokens = max(entry.goal_tokens, asked)
            return Acceptance.JOINED
        if entry.promised_tokens and asked - entry.promised_tokens < self._books.rest_tokens:
            self._books.counters.add("appends_put_off")
            return Acceptance.JOINED if entry.is_pending else Acceptance.RESIDENT
        if not self._holding.reserve(entry, asked):
            return DeclineReason.FOOTPRINT
        if asked >= entry.reach_tokens:
            entry.chain = event.chain
        entry.goal_tokens = asked
        return Acceptance.STARTED

    def _create(self, event: PreInferAsked) -> tuple[Entry, Acceptance, int] | DeclineReason:
        if not self._holding.could_hold(event.chain.token_count):
            return DeclineReason.FOOTPRINT
        if not self._holding.make_entry_room():
            return DeclineReason.OVERLOADED
        entry = self._books.entries.add(event.key, event.chain, event.producer_trace)
        entry.tickets[event.ticket_id] = None
        is_reserved = self._holding.reserve(entry, event.chain.token_count)
        assert is_reserved, "evicting an entry cannot take pages away"
        return entry, Acceptance.STARTED, 0

    def _cut_back(self, entry: Entry, event: PreInferAsked) -> Entry | None:
        """An idle psi of another history: keep the pages both have in common, or end it."""
        self._books.counters.add("dropped_diverged")
        shared = usable_tokens(entry.chain, entry.tokens, event.chain)
        if not shared:
            self._holding.drop(entry, Cause.EVICTED)
            return None
        self._holding.shorten(entry, shared)
        entry.chain = event.chain
        return entry

    def _repeated(self, ticket: Ticket) -> Acceptance:
        """A pre-infer that came twice changes nothing."""
        entry = self._books.entries.by_id[ticket.entry_id]
        return Acceptance.RESIDENT if entry.tokens >= ticket.need_tokens else Acceptance.JOINED

    def _accept(self, event: PreInferAsked, how: Acceptance, begins_tokens: int = 0) -> None:
        self._books.counters.add(f"accepted_{how.value.lower()}")
        is_started = how == Acceptance.STARTED
        self._books.emit(Accept(event.ticket_id, how, begins_tokens if is_started else 0))

    def _decline(self, event: PreInferAsked, reason: DeclineReason) -> None:
        self._books.counters.add(f"declined_{reason.value.lower()}")
        if event.ticket_id not in self._books.tickets.open:
            is_late = reason == DeclineReason.EXPIRED
            self._books.tickets.note(event.ticket_id, Closing.EXPIRED if is_late else Closing.DECLINED)
        self._books.emit(Decline(event.ticket_id, reason))
