"""The residency machine: which psi are on this device, who holds them, who waits for them.

It decides and performs nothing. Every event changes the tables of one entry at most and
then `_attend` brings that entry to rest in a fixed order: answer joiners, lower the goal,
start the next job, promote, spill, list with the eviction policy. The parts are in files of
their own: asking (tickets), production (jobs), ranking (joins and leases), spilling,
holding (pages and eviction); lifecycle has the table of states.

Theory of operation. An entry is one psi with one state and at most one job. Pages are
reserved up to the goal before work starts and stay until the job that may write them
has reported its end and the ranks that may read them have reported theirs. A ticket
holds its entry until it is consumed, released or its window closes; an entry that nothing
holds stays until its pages are needed.

Source: design, section 3 (ranker), invariants I1, I3, I4, I7.
"""

from __future__ import annotations

from dataclasses import dataclass

from relaygr.domain.cost import CostModel
from relaygr.domain.identity import UserKey
from services.ranker.core import events, invariants
from services.ranker.core.alarms import Alarms
from services.ranker.core.asking import Asking
from services.ranker.core.books import AlarmKind, Books
from services.ranker.core.effects import CancelProduction, Effect, ForgetDram
from services.ranker.core.entries import Entry, EntryTable
from services.ranker.core.events import Event
from services.ranker.core.eviction import EvictionPolicy, LeastRecentlyHeld
from services.ranker.core.holding import Holding
from services.ranker.core.lifecycle import Cause, PsiState
from services.ranker.core.pages import PageAllocator
from services.ranker.core.production import Production
from services.ranker.core.ranking import Ranking
from services.ranker.core.spilling import Spilling
from services.ranker.core.tickets import Closing, TicketBook

RELOAD_WORTH_NS = 10_000_000
"""A reload of up to this is worth waiting for, also when computing were quicker: it takes nothing of the device."""


@dataclass(frozen=True, slots=True)
class Occupancy:
    """What is here now, and what was counted since boot."""

    used_pages: int
    reserved_pages: int
    """Pages that cannot be evicted."""
    total_pages: int
    resident_entries: int
    """Psi that no job is working on."""
    open_tickets: int
    counters: dict[str, int]


class Residency:
    """A Machine. Ids of entries and jobs count up from 1, so equal inputs give equal effects."""

    def __init__(
        self,
        *,
        pages_total: int,
        tickets_max: int,
        entries_max: int,
        ranks_max: int,
        spills_max: int,
        tombstone_ns: int,
        cost: CostModel,
        rest_tokens: int = 0,
        reload_worth_ns: int = RELOAD_WORTH_NS,
        is_dram_remote: bool = False,
        policy: EvictionPolicy | None = None,
    ):
        assert min(tickets_max, entries_max, ranks_max, spills_max, tombstone_ns) > 0
        self._books = Books(
            pages=PageAllocator(pages_total),
            entries=EntryTable(entries_max),
            tickets=TicketBook(tickets_max),
            policy=policy or LeastRecentlyHeld(),
            cost=cost,
            ranks_max=ranks_max,
            spills_max=spills_max,
            tombstones_max=4 * entries_max,
            tombstone_ns=tombstone_ns,
            rest_tokens=rest_tokens,
            reload_worth_ns=0 if is_dram_remote else reload_worth_ns,
            is_dram_remote=is_dram_remote,
        )
        self._holding = Holding(self._books)
        self._asking = Asking(self._books, self._holding)
        self._production = Production(self._books, self._holding)
        self._ranking = Ranking(self._books)
        self._spilling = Spilling(self._books, self._holding)
        self._attended: list[Entry] = []
        """By the last event; for checks."""

    def handle(self, event: Event, now_ns: int) -> list[Effect]:
        """Take one event and say what should be done."""
        self._attended.clear()
        match event:
            case events.PreInferAsked():
                self._attend(self._asking.ask(event, now_ns), Cause.PRE_INFER_ASKED, now_ns)
            case events.RankAsked():
                self._attend(self._ranking.ask(event, now_ns), Cause.UNWANTED, now_ns)
            case events.LookupEnded():
                self._attend(self._production.lookup_ended(event), Cause.LOOKUP_ENDED, now_ns)
            case events.ReloadEnded():
                self._attend(self._production.reload_ended(event), Cause.RELOAD_ENDED, now_ns)
            case events.ChunkEnded():
                self._attend(self._production.chunk_ended(event), Cause.CHUNK_ENDED, now_ns)
            case events.ProductionFailed():
                self._attend(self._production.failed(event), Cause.PRODUCTION_FAILED, now_ns)
            case events.RankEnded(rank_id):
                self._end_rank(rank_id, now_ns, was_abandoned=False)
            case events.RankAbandoned(rank_id):
                self._end_rank(rank_id, now_ns, was_abandoned=True)
            case events.SpillEnded():
                self._attend(self._spilling.ended(event), Cause.SPILL_ENDED, now_ns)
                self._spilling.start_queued()
            case events.TicketReleased(ticket_id):
                self._release(ticket_id, now_ns)
            case events.UserForgotten(owner):
                self._forget(owner, now_ns)
            case events.DrainSet(draining):
                self._books.is_draining = draining
            case events.DramAttached(attached):
                self._attach(attached)
        return self._books.take_effects()

    def use_costs(self, cost: CostModel) -> None:
        """Foretell by another model from now on; what was foretold stays."""
        self._books.cost = cost

    def deadline_ns(self) -> int | None:
        """The next window to close, wait to end or tombstone to fall."""
        return self._books.alarms.next_ns()

    def expire(self, now_ns: int) -> list[Effect]:
        """Close windows, end waits, drop tombstones that are due."""
        self._attended.clear()
        alarms: Alarms = self._books.alarms
        while (name := alarms.pop_due(now_ns)) is not None:
            match name:
                case (AlarmKind.WINDOW, str(ticket_id)):
                    self._books.counters.add("windows_closed")
                    self._close(ticket_id, Closing.EXPIRED, now_ns)
                case (AlarmKind.WAIT, int(rank_id)):
                    self._attend(self._ranking.overtake(rank_id, now_ns), Cause.UNWANTED, now_ns)
                case (AlarmKind.RELOAD, int(entry_id)):
                    late = self._books.entries.by_id[entry_id]
                    late.reload_by_ns = None
                    self._production.give_up(late)
                    self._attend(late, Cause.UNWANTED, now_ns)
                case (AlarmKind.TOMBSTONE, UserKey() as owner):
                    del self._books.tombstones[owner]
                case _:
                    raise AssertionError(f"unknown alarm {name}")
        return self._books.take_effects()

    def check_touched(self) -> None:
        """Assert the bounds, and all that holds of the entries that the last event brought to rest."""
        invariants.check_touched(self._books, self._attended)

    def check(self) -> None:
        """Assert I1, I3, I4 and I7, and that page accounting is exact."""
        invariants.check(self._books, self._holding.idle_pages)

    def snapshot(self) -> Occupancy:
        """Occupancy and counters."""
        books = self._books
        return Occupancy(
            used_pages=books.pages.used_pages,
            reserved_pages=books.pages.used_pages - self._holding.idle_pages,
            total_pages=books.pages.pages_total,
            resident_entries=books.entries.resting_count,
            open_tickets=len(books.tickets.open),
            counters=books.counters.copy(),
        )

    def _attend(self, entry: Entry | None, cause: Cause, now_ns: int) -> None:
        """Bring an entry to rest after a change."""
        if entry is None or entry.entry_id not in self._books.entries.by_id:
            return
        self._attended.append(entry)
        if entry.state == PsiState.LEAVING:
            self._production.watch(entry, now_ns)
            self._see_off(entry, cause)
            return
        self._ranking.review(entry, now_ns)
        self._production.retract(entry)
        self._production.settle(entry, cause)
        self._production.watch(entry, now_ns)
        if entry.state == PsiState.ABSENT:
            return
        self._production.promote(entry)
        self._spilling.offer(entry)
        self._holding.refresh(entry)

    def _see_off(self, entry: Entry, cause: Cause) -> None:
        """End a forgotten entry once nothing reads or writes it."""
        if entry.job_id is None and not entry.leases and not entry.spilling_tokens:
            self._books.counters.add("dropped_forgotten")
            self._holding.drop(entry, cause)

    def _end_rank(self, rank_id: int, now_ns: int, *, was_abandoned: bool) -> None:
        entry, ticket_id = self._ranking.end(rank_id, was_abandoned=was_abandoned)
        if ticket_id is not None:
            held = self._books.entries.by_id[self._books.tickets.open[ticket_id].entry_id]
            held.is_spill_due = True
            self._books.counters.add("tickets_consumed")
            self._close(ticket_id, Closing.CONSUMED, now_ns)
        cause = Cause.LEASE_ENDED if entry is not None and entry.state == PsiState.LEAVING else Cause.UNWANTED
        self._attend(entry, cause, now_ns)

    def _release(self, ticket_id: str, now_ns: int) -> None:
        if ticket_id in self._books.tickets.open:
            self._books.counters.add("tickets_released")
            self._close(ticket_id, Closing.RELEASED, now_ns)
        else:
            self._books.tickets.note(ticket_id, Closing.RELEASED)

    def _close(self, ticket_id: str, closing: Closing, now_ns: int) -> None:
        """End a ticket's hold."""
        entry = self._drop_ticket(ticket_id, closing)
        self._attend(entry, Cause.UNWANTED, now_ns)

    def _drop_ticket(self, ticket_id: str, closing: Closing) -> Entry:
        ticket = self._books.tickets.close(ticket_id, closing)
        self._books.alarms.clear((AlarmKind.WINDOW, ticket_id))
        entry = self._books.entries.by_id[ticket.entry_id]
        del entry.tickets[ticket_id]
        return entry

    def _forget(self, owner: UserKey, now_ns: int) -> None:
        """Drop what is a user's, and keep it from coming back for a while."""
        for entry in [entry for entry in self._books.entries.by_key.values() if entry.key.owner == owner]:
            for ticket_id in list(entry.tickets):
                self._books.counters.add("tickets_forgotten")
                self._drop_ticket(ticket_id, Closing.FORGOTTEN)
            self._ranking.forget(entry)
            self._books.spill_queue.pop(entry.entry_id, None)
            if entry.job_id is not None and entry.state != PsiState.CANCELLING:
                self._books.emit(CancelProduction(entry.job_id))
            self._books.entries.leave(entry)
            self._holding.refresh(entry)
            self._attend(entry, Cause.FORGOTTEN, now_ns)
        self._bury(owner, now_ns)
        self._books.emit(ForgetDram(owner))

    def _bury(self, owner: UserKey, now_ns: int) -> None:
        """Set a tombstone; when there are too many, the oldest goes, which would have fallen first."""
        books = self._books
        books.tombstones.pop(owner, None)
        while len(books.tombstones) >= books.tombstones_max:
            oldest = next(iter(books.tombstones))
            del books.tombstones[oldest]
            books.alarms.clear((AlarmKind.TOMBSTONE, oldest))
            books.counters.add("tombstones_dropped")
        books.tombstones[owner] = now_ns + books.tombstone_ns
        books.alarms.set((AlarmKind.TOMBSTONE, owner), now_ns + books.tombstone_ns)

    def _attach(self, attached: bool) -> None:
        """The DRAM tier came or went. One that came may hold what was forgotten while it was away."""
        self._books.is_dram_attached = attached
        if not attached:
            self._spilling.detach()
            return
        for owner in self._books.tombstones:
            self._books.emit(ForgetDram(owner))
