"""Which psi are copied to DRAM: consumed ones, and those that nothing holds any more, a bounded number at a time.

So an entry has been copied by the time its pages are needed, and eviction waits for nothing; what could not be copied
by then is dropped. Each content is tried once, and again when it is consumed again.

A copy takes the whole psi, so one that has grown by less than a page since its last copy is
not copied again: what is there is a true prefix of it, and the rest costs less than a page's append.

Source: design, section 3 (expander), invariant I3.
"""

from __future__ import annotations

from relaygr.domain.chain import PAGE_TOKENS
from services.ranker.core.books import Books
from services.ranker.core.effects import ForgetDram, StartSpill
from services.ranker.core.entries import Entry
from services.ranker.core.events import SpillEnded
from services.ranker.core.holding import Holding
from services.ranker.core.lifecycle import Cause, PsiState
from services.ranker.core.pages import pages_of


def is_stored(entry: Entry) -> bool:
    """True when a copy would add less than a page to what DRAM holds."""
    if not entry.stored_tokens:
        return not entry.tokens
    return entry.tokens - entry.stored_tokens < PAGE_TOKENS


class Spilling:
    """Copies in flight, and a queue of entries that wait; each entry is in it at most once."""

    def __init__(self, books: Books, holding: Holding):
        self._books = books
        self._holding = holding

    def offer(self, entry: Entry) -> None:
        """Copy an entry, or queue it, when that is due."""
        if entry.state != PsiState.RESIDENT:
            return
        if not entry.is_held and entry.tried_tokens < entry.tokens:
            entry.is_spill_due = True
        if not entry.is_spill_due:
            return
        if not self._books.is_dram_attached or is_stored(entry):
            entry.is_spill_due = False
        elif len(self._books.spills) < self._books.spills_max:
            self._start(entry)
        else:
            self._books.spill_queue[entry.entry_id] = None

    def ended(self, event: SpillEnded) -> Entry | None:
        """A copy has ended: the entry is clean, or its copy must be erased again when its user was forgotten."""
        entry = self._books.entries.by_id.get(event.entry_id)
        if entry is None or event.entry_id not in self._books.spills:
            self._books.counters.add("race_spill_unexpected")
            return None
        del self._books.spills[event.entry_id]
        self._books.counters.add("spills_stored" if event.stored else "spills_failed")
        if event.stored and self._books.is_dram_attached:
            entry.stored_tokens = entry.spilling_tokens
        entry.spilling_tokens = 0
        if event.stored and entry.state == PsiState.LEAVING:
            self._books.emit(ForgetDram(entry.key.owner))
        return entry

    def start_queued(self) -> None:
        """Use the places that copies in flight left."""
        while self._books.spill_queue and len(self._books.spills) < self._books.spills_max:
            entry_id = next(iter(self._books.spill_queue))
            del self._books.spill_queue[entry_id]
            entry = self._books.entries.by_id[entry_id]
            self.offer(entry)
            self._holding.refresh(entry)

    def detach(self) -> None:
        """The DRAM tier is gone, and what was stored there with it."""
        self._books.spill_queue.clear()
        for entry in self._books.entries.by_id.values():
            entry.stored_tokens, entry.tried_tokens, entry.is_spill_due = 0, 0, False

    def _start(self, entry: Entry) -> None:
        entry.is_spill_due, entry.tried_tokens = False, entry.tokens
        self._books.spill_queue.pop(entry.entry_id, None)
        self._books.spills[entry.entry_id] = None
        self._books.counters.add("spills_started")
        entry.spilling_tokens = entry.tokens
        entry.move(PsiState.SPILLING, Cause.SPILL_STARTED)
        pages = tuple(entry.page_ids[: pages_of(entry.tokens)])
        digest = entry.chain.digest_at(entry.tokens)
        self._books.emit(StartSpill(entry.entry_id, entry.key, pages, entry.tokens, digest, entry.producer_trace))
