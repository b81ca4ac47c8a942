"""Residency of a ranker whose psi live elsewhere: they pass through the device and do not stay."""

from __future__ import annotations

from relaygr.domain.chain import PAGE_TOKENS
from relaygr.domain.identity import PsiKey
from services.ranker.core import events as ev
from services.ranker.core.effects import Effect
from services.ranker.core.entries import Entry
from services.ranker.core.lifecycle import Cause, PsiState
from services.ranker.core.residency import Residency
from services.ranker.core.tickets import Closing


class PassingResidency(Residency):
    """Psi pass through: stored as soon as they are complete, dropped as soon as nothing uses them."""

    def handle(self, event: ev.Event, now_ns: int) -> list[Effect]:
        """Take one event, and let go of what is done."""
        if isinstance(event, ev.LookupEnded):
            self._spare_reload(event, now_ns)
        effects = self._books.take_effects() + super().handle(event, now_ns)
        if isinstance(event, ev.SpillEnded):
            entry = self._books.entries.by_id.get(event.entry_id)
            if entry is not None and entry.state == PsiState.RESIDENT:
                self._end_tickets(entry, now_ns)
        return effects + self._pass_on(now_ns)

    def expire(self, now_ns: int) -> list[Effect]:
        """Do what is due, and let go of what is done."""
        return super().expire(now_ns) + self._pass_on(now_ns)

    def is_here(self, key: PsiKey) -> bool:
        """True while psi of a key is being produced, stored or read."""
        return key in self._books.entries.by_key

    def _spare_reload(self, event: ev.LookupEnded, now_ns: int) -> None:
        """The pool lacks less than a page of what a pre-infer would produce, and no rank waits: nothing is to do."""
        entry = self._books.entries.by_job.get(event.job_id)
        if entry is None or entry.state != PsiState.LOOKING_UP or entry.joiners or not event.tokens:
            return
        missing_tokens = entry.goal_tokens - event.tokens
        if 0 <= missing_tokens < PAGE_TOKENS and entry.chain.digest_at(event.tokens) == event.digest:
            self._end_tickets(entry, now_ns, tokens=entry.goal_tokens)

    def _pass_on(self, now_ns: int) -> list[Effect]:
        for entry in list(self._books.entries.by_key.values()):
            if entry.state != PsiState.RESIDENT or entry.is_pending or not entry.tickets:
                continue
            if entry.stored_tokens >= entry.tokens:
                self._end_tickets(entry, now_ns)
            elif self._books.is_dram_attached and entry.entry_id not in self._books.spill_queue:
                entry.is_spill_due = True
                self._attend(entry, Cause.UNWANTED, now_ns)
                if entry.state == PsiState.RESIDENT and entry.entry_id not in self._books.spill_queue:
                    self._end_tickets(entry, now_ns)  # Too little is new for a copy.
        idle = [self._books.entries.by_id[entry_id] for entry_id in self._books.policy.victims()]
        for entry in idle:
            if entry.entry_id not in self._books.spill_queue:
                self._holding.drop(entry, Cause.EVICTED)
        return self._books.take_effects()

    def _end_tickets(self, entry: Entry, now_ns: int, tokens: int | None = None) -> None:
        """Their psi is where it belongs: what they held here is done."""
        reached = entry.tokens if tokens is None else tokens
        for ticket_id in list(entry.tickets):
            if self._books.tickets.open[ticket_id].need_tokens <= reached:
                self._close(ticket_id, Closing.CONSUMED, now_ns)
