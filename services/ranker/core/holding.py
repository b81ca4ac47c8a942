"""Space: who may be evicted, and pages reserved before anything is computed into them.

Only an entry that nothing holds is evicted (I1). Whether a request fits is decided before
the first eviction, so that a refusal costs nobody anything.

Source: design, section 3 (ranker), invariants I1, I3.
"""

from __future__ import annotations

from services.ranker.core.books import Books
from services.ranker.core.entries import Entry
from services.ranker.core.eviction import Idle
from services.ranker.core.lifecycle import Cause, PsiState
from services.ranker.core.pages import pages_of


class Holding:
    """Reserves, evicts and drops."""

    def __init__(self, books: Books):
        self._books = books
        self.idle_pages = 0

    def reserve(self, entry: Entry, tokens: int) -> bool:
        """Give an entry the pages for so many tokens, evicting others; False when they cannot be had.

        The entry is held, so it does not evict itself.
        """
        assert not entry.is_idle
        wanted = pages_of(tokens) - len(entry.page_ids)
        if wanted > 0:
            if wanted > self._books.pages.free_pages + self.idle_pages:
                return False
            while self._books.pages.free_pages < wanted:
                self._evict(self._books.entries.by_id[next(self._books.policy.victims())])
            entry.page_ids += self._books.pages.take(wanted)
        return True

    def could_hold(self, tokens: int) -> bool:
        """True when a new entry of so many tokens could get its pages now."""
        return pages_of(tokens) <= self._books.pages.free_pages + self.idle_pages

    def make_entry_room(self) -> bool:
        """See to it that the entry table has a place."""
        if not self._books.entries.is_full:
            return True
        victim = next(self._books.policy.victims(), None)
        if victim is None:
            return False
        self._evict(self._books.entries.by_id[victim])
        return True

    def trim(self, entry: Entry) -> None:
        """Free the pages that nobody waits for. No job may be writing."""
        assert entry.job_id is None
        keep = pages_of(max(entry.tokens, entry.goal_tokens))
        self._books.pages.give_back(entry.page_ids[keep:])
        del entry.page_ids[keep:]

    def refresh(self, entry: Entry) -> None:
        """Tell the policy whether an entry may be evicted; an empty one that nothing holds ends."""
        if entry.is_held == (not entry.is_idle):
            return
        if entry.is_held:
            self._unlist(entry)
        elif not entry.tokens:
            self.drop(entry, Cause.EVICTED)
        else:
            entry.is_idle = True
            self.idle_pages += len(entry.page_ids)
            self._books.policy.add(entry.entry_id, self._idle_of(entry))

    def drop(self, entry: Entry, cause: Cause) -> None:
        """End an entry and free its pages. Nothing may read or write them any more."""
        assert entry.job_id is None and not entry.leases and not entry.spilling_tokens
        assert not entry.tickets and not entry.joiners
        if entry.is_idle:
            self._unlist(entry)
        self._books.pages.give_back(entry.page_ids)
        entry.page_ids = []
        self._books.spill_queue.pop(entry.entry_id, None)
        self._books.entries.remove(entry, cause)

    def shorten(self, entry: Entry, tokens: int) -> None:
        """Keep only the first tokens of an idle entry, the part that a new history has in common with it."""
        assert entry.is_idle and 0 < tokens < entry.tokens
        self._unlist(entry)
        entry.tokens = entry.goal_tokens = tokens
        entry.stored_tokens, entry.tried_tokens, entry.is_spill_due = 0, 0, False
        self._books.spill_queue.pop(entry.entry_id, None)
        self.trim(entry)

    def _evict(self, entry: Entry) -> None:
        assert not entry.is_held and entry.state == PsiState.RESIDENT
        self._books.counters.add("evicted_space")
        if not entry.stored_tokens:
            self._books.counters.add("evicted_unspilled")
        self._books.policy.evicted(entry.entry_id)
        self.drop(entry, Cause.EVICTED)

    def _idle_of(self, entry: Entry) -> Idle:
        cost, stored = self._books.cost, min(entry.stored_tokens, entry.tokens)
        missing = entry.tokens - stored
        reload_ns = cost.reload_ns(stored) if stored else 0
        extend_ns = cost.extend_ns(missing, stored) if missing >= max(1, self._books.rest_tokens) else 0
        return Idle(len(entry.page_ids), reload_ns + extend_ns, entry.uses)

    def _unlist(self, entry: Entry) -> None:
        entry.is_idle = False
        self.idle_pages -= len(entry.page_ids)
        self._books.policy.remove(entry.entry_id)
