"""What must hold after every event, asserted. The numbers are the design's, section 5.

Source: design, section 5, invariants I1, I3, I4, I7.
"""

from __future__ import annotations

from relaygr.domain.identity import PsiKey
from services.ranker.core.books import Books, RankState
from services.ranker.core.counters import RACE_COUNTERS
from services.ranker.core.entries import Entry
from services.ranker.core.lifecycle import HAS_JOB, LEASABLE, PsiState
from services.ranker.core.matching import agrees
from services.ranker.core.pages import pages_of


def check(books: Books, idle_pages: int) -> None:
    """Assert them all."""
    _check_bounds(books)
    owned: list[int] = []
    for entry in books.entries.by_id.values():
        _check_entry(books, entry)
        _check_tickets_of(books, entry)
        _check_waits_of(books, entry)
        owned += entry.page_ids
    books.pages.check(owned)
    _check_index(books)
    _check_tickets(books)
    _check_ranks(books)
    _check_eviction(books, idle_pages)
    _check_races(books)


def check_touched(books: Books, touched: list[Entry]) -> None:
    """Assert what one event can have broken: the bounds, and all about the entries that it touched."""
    _check_sizes(books)
    for entry in touched:
        if entry.entry_id in books.entries.by_id:
            _check_entry(books, entry)
            _check_tickets_of(books, entry)
            _check_waits_of(books, entry)
            assert entry.state == PsiState.LEAVING or books.entries.by_key[entry.key] is entry
    _check_races(books)


def _check_races(books: Books) -> None:
    """What cannot happen did not."""
    for name in RACE_COUNTERS:
        assert books.counters[name] == 0, f"{name} is {books.counters[name]}"


def _check_bounds(books: Books) -> None:
    """I3: tables stay within their maxima, and each alarm is somebody's."""
    _check_sizes(books)
    waiting = sum(rank.state == RankState.WAITING for rank in books.ranks.values())
    watched = sum(entry.reload_by_ns is not None for entry in books.entries.by_id.values())
    assert len(books.alarms) == len(books.tickets.open) + waiting + watched + len(books.tombstones)


def _check_sizes(books: Books) -> None:
    entries, tickets = books.entries, books.tickets
    assert len(entries.by_id) <= entries.entries_max
    assert len(tickets.open) <= tickets.tickets_max and len(tickets.closed) <= tickets.closed_max
    assert len(books.ranks) <= books.ranks_max
    assert len(books.spills) <= books.spills_max and len(books.spill_queue) <= entries.entries_max
    assert not books.spill_queue or len(books.spills) == books.spills_max, "copies wait beside a free place"
    assert len(books.tombstones) <= books.tombstones_max


def _check_entry(books: Books, entry: Entry) -> None:
    """Pages cover what is read and written; a job is where the state says so."""
    assert len(entry.page_ids) >= pages_of(max(entry.reach_tokens, entry.tokens))
    assert entry.tokens <= entry.goal_tokens and entry.reach_tokens <= entry.chain.token_count
    assert all(0 < tokens <= entry.tokens for tokens in entry.leases.values()), "a lease on incomplete tokens"
    assert not entry.leases or entry.state == PsiState.LEAVING or entry.state in LEASABLE
    is_fetching = entry.state in (PsiState.LOOKING_UP, PsiState.RELOADING)
    assert (entry.reload_by_ns is not None) == (is_fetching and not entry.is_reload_overdue), "a reload without an end"
    assert (entry.entry_id in books.spills) == bool(entry.spilling_tokens)
    assert entry.spilling_tokens <= entry.tokens and entry.stored_tokens <= entry.tokens
    match entry.state:
        case state if state in HAS_JOB or state == PsiState.CANCELLING:
            assert entry.job_id is not None
        case PsiState.RESIDENT:
            assert entry.job_id is None and not entry.spilling_tokens and entry.goal_tokens == entry.tokens
            assert len(entry.page_ids) == pages_of(entry.tokens)
        case PsiState.SPILLING:
            assert entry.job_id is None and entry.spilling_tokens
        case PsiState.LEAVING:
            assert not entry.tickets and not entry.joiners
            assert entry.job_id is not None or entry.leases or entry.spilling_tokens, "nothing keeps it"
        case _:
            raise AssertionError(f"entry {entry.entry_id} is {entry.state}")


def _check_index(books: Books) -> None:
    """I4: one entry per key, one job per entry."""
    entries = books.entries
    matched = resting = 0
    producing: set[PsiKey] = set()
    for entry in entries.by_id.values():
        if entry.state != PsiState.LEAVING:
            assert entries.by_key[entry.key] is entry
            matched += 1
            resting += entry.state in (PsiState.RESIDENT, PsiState.SPILLING)
        if entry.job_id is not None:
            assert entries.by_job[entry.job_id] is entry
            assert entry.key not in producing, "two producers of one key"
            producing.add(entry.key)
    assert matched == len(entries.by_key)
    assert sum(entries.leaving.values()) == len(entries.by_id) - matched
    assert entries.resting_count == resting
    assert len(producing) == len(entries.by_job)


def _check_tickets(books: Books) -> None:
    """I1, I7: an open ticket holds an entry that is there, and nothing else holds as a ticket."""
    assert sum(len(entry.tickets) for entry in books.entries.by_id.values()) == len(books.tickets.open)
    assert not books.tickets.open.keys() & books.tickets.closed.keys()


def _check_tickets_of(books: Books, entry: Entry) -> None:
    for ticket_id in entry.tickets:
        ticket = books.tickets.open[ticket_id]
        assert ticket.entry_id == entry.entry_id
        assert ticket.need_tokens <= entry.reach_tokens
        assert agrees(entry.chain, ticket.need_tokens, ticket.chain), "histories that diverge share an entry"


def _check_ranks(books: Books) -> None:
    """I7: waits and leases are exactly those of ranks that have not ended."""
    for rank in books.ranks.values():
        assert rank.state != RankState.ASKED, "a rank was neither answered nor made to wait"
        entry = None if rank.entry_id is None else books.entries.by_id[rank.entry_id]
        assert (entry is not None) == (rank.state in (RankState.WAITING, RankState.LEASED))
        if entry is not None:
            assert agrees(entry.chain, entry.leases.get(rank.rank_id, rank.need_tokens), rank.chain)
            assert (rank.rank_id in entry.joiners) == (rank.state == RankState.WAITING)
            assert (rank.rank_id in entry.leases) == (rank.state == RankState.LEASED)


def _check_waits_of(books: Books, entry: Entry) -> None:
    for rank_id in (*entry.joiners, *entry.leases):
        assert books.ranks[rank_id].entry_id == entry.entry_id
    assert not entry.joiners or entry.is_pending, "a rank waits for nothing"


def _check_eviction(books: Books, idle_pages: int) -> None:
    """I1: exactly what nothing holds may be evicted."""
    listed = list(books.policy.victims())
    idle = [entry for entry in books.entries.by_id.values() if not entry.is_held]
    assert len(listed) == len(idle) and set(listed) == {entry.entry_id for entry in idle}
    assert all(entry.is_idle for entry in idle)
    assert idle_pages == sum(len(entry.page_ids) for entry in idle)
