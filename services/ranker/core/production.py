"""How psi comes to be: looked up, reloaded, computed; one job at a time per entry (I4).

A job keeps its entry's pages until its last report, also when it was told to stop, so
that a page is never written by two jobs. What came while a job ran (a longer history, a
new ask of a cancelled one) only raises the entry's goal; `settle` starts the next job
when the last one is over.

A lookup and the reload after it have as long as computing would take instead, so that in the worst case psi takes
twice as long as without DRAM; less when computing would not be ready by the deadline any more. Then they are given up.

Source: design, section 3 (ranker), invariant I4.
"""

from __future__ import annotations

from relaygr.domain.chain import Chain
from services.ranker.core.books import AlarmKind, Books
from services.ranker.core.effects import (
    AbandonLookup,
    CancelProduction,
    DemoteProduction,
    GiveUpReload,
    PromoteProduction,
    StartCompute,
    StartLookup,
    StartReload,
)
from services.ranker.core.entries import Entry
from services.ranker.core.events import ChunkEnded, LookupEnded, ProductionFailed, ReloadEnded
from services.ranker.core.holding import Holding
from services.ranker.core.lifecycle import HAS_JOB, Cause, PsiState
from services.ranker.core.pages import pages_of

_FETCHING = (PsiState.LOOKING_UP, PsiState.RELOADING)


class Production:
    """Drives an entry's jobs. Each report returns the entry it concerned."""

    def __init__(self, books: Books, holding: Holding):
        self._books = books
        self._holding = holding

    def lookup_ended(self, event: LookupEnded) -> Entry | None:
        """Reload what was found when it is a prefix of what is asked, else compute."""
        entry = self._reported(event.job_id, PsiState.LOOKING_UP)
        if entry is None:
            return None
        if entry.state != PsiState.LOOKING_UP:
            if event.tokens:
                self._books.emit(AbandonLookup(event.job_id))
            self._books.entries.end_job(entry)
        elif self._is_usable(entry, event) and self._is_worth(entry, event.tokens):
            self._books.counters.add("lookup_hits")
            if 0 < entry.goal_tokens - event.tokens < self._books.rest_tokens:
                self._books.counters.add("appends_put_off")
                self._settle_for(entry, event.tokens)
            entry.target_tokens = event.tokens
            entry.move(PsiState.RELOADING, Cause.LOOKUP_ENDED)
            pages = tuple(entry.page_ids[: pages_of(event.tokens)])
            self._books.emit(StartReload(event.job_id, pages, event.tokens))
        else:
            if event.tokens:
                self._books.counters.add("lookups_unusable")
                self._books.emit(AbandonLookup(event.job_id))
            self._compute(entry, Cause.LOOKUP_ENDED)
        return entry

    def reload_ended(self, event: ReloadEnded) -> Entry | None:
        """Take the reloaded tokens as complete; compute what is missing."""
        entry = self._reported(event.job_id, PsiState.RELOADING)
        if entry is None:
            return None
        if event.ok:
            self._take_reloaded(entry)
        else:
            self._books.counters.add("reloads_failed")
        if entry.state != PsiState.RELOADING or entry.tokens >= entry.goal_tokens:
            self._books.entries.end_job(entry)
        else:
            self._compute(entry, Cause.RELOAD_ENDED)
        return entry

    def chunk_ended(self, event: ChunkEnded) -> Entry | None:
        """Psi has grown by a chunk; the chunk that reaches the target ends the job."""
        entry = self._reported(event.job_id, PsiState.PRODUCING)
        if entry is None:
            return None
        if not entry.tokens < event.tokens <= entry.target_tokens:
            self._books.counters.add("race_report_unexpected")
            return None
        entry.tokens, entry.producer_trace = event.tokens, entry.job_trace
        entry.goal_tokens = max(entry.goal_tokens, entry.tokens)
        if entry.tokens == entry.target_tokens:
            self._books.entries.end_job(entry)
        return entry

    def failed(self, event: ProductionFailed) -> Entry | None:
        """A failed lookup or reload is computed instead; a failed compute is not tried again."""
        entry = self._books.entries.by_job.get(event.job_id)
        if entry is None:
            self._books.counters.add("race_report_unexpected")
            return None
        state, target = entry.state, entry.target_tokens
        self._books.entries.end_job(entry)
        match state:
            case PsiState.LOOKING_UP | PsiState.RELOADING:
                self._books.entries.draw_job(entry)
                self._compute(entry, Cause.PRODUCTION_FAILED)
            case PsiState.PRODUCING:
                self._books.counters.add("productions_failed")
                if entry.goal_tokens <= target:
                    # Nobody waits for more than is complete; a later history may go on in another way.
                    self._settle_for(entry, entry.tokens)
            case _:
                pass
        return entry

    def retract(self, entry: Entry) -> None:
        """Lower the goal to what tickets and joiners still need; cancel the job when it is met already."""
        demand = max(
            (
                *(self._books.tickets.open[ticket_id].need_tokens for ticket_id in entry.tickets),
                *(self._books.ranks[rank_id].need_tokens for rank_id in entry.joiners),
            ),
            default=0,
        )
        entry.goal_tokens = max(entry.tokens, min(entry.promised_tokens, demand))
        if entry.job_id is not None and entry.state in HAS_JOB and demand <= entry.tokens:
            self._books.counters.add("productions_cancelled")
            self._books.emit(CancelProduction(entry.job_id))
            entry.move(PsiState.CANCELLING, Cause.UNWANTED)

    def watch(self, entry: Entry, now_ns: int) -> None:
        """Keep the alarm that ends a lookup or reload in step with the entry's state."""
        is_watched = entry.state in _FETCHING and not entry.is_reload_overdue
        if is_watched == (entry.reload_by_ns is not None):
            return
        name = (AlarmKind.RELOAD, entry.entry_id)
        if is_watched:
            entry.reload_by_ns = self._reload_by_ns(entry, now_ns)
            self._books.alarms.set(name, entry.reload_by_ns)
        else:
            entry.reload_by_ns = None
            self._books.alarms.clear(name)

    def give_up(self, entry: Entry) -> None:
        """A lookup or reload has taken as long as it may."""
        assert entry.job_id is not None and entry.state in _FETCHING
        entry.is_reload_overdue = True
        self._books.counters.add("reloads_overdue")
        self._books.emit(GiveUpReload(entry.job_id))

    def settle(self, entry: Entry, cause: Cause) -> None:
        """Start the next job when none runs and more is asked; else come to rest, or end."""
        if entry.job_id is not None or entry.spilling_tokens:
            return
        if entry.goal_tokens > entry.tokens:
            self._begin(entry, cause)
        elif entry.state == PsiState.SPILLING:
            self._holding.trim(entry)
            entry.move(PsiState.RESIDENT, cause)
        elif entry.state != PsiState.RESIDENT:
            self._come_to_rest(entry, cause)

    def promote(self, entry: Entry) -> None:
        """Lend the job the earliest deadline of those who wait for it, and take it back when nobody does.

        It is too late only when it is so for each of them.
        """
        if entry.job_id is None or entry.state not in HAS_JOB:
            return
        deadline_ns = min((self._books.ranks[rank_id].deadline_ns for rank_id in entry.joiners), default=None)
        due_ns = self._due_of(entry)
        if (deadline_ns, due_ns) == (entry.promoted_ns, entry.promoted_due_ns):
            return
        entry.promoted_ns, entry.promoted_due_ns = deadline_ns, due_ns
        if deadline_ns is None:
            self._books.emit(DemoteProduction(entry.job_id))
        else:
            self._books.emit(PromoteProduction(entry.job_id, deadline_ns, due_ns))

    def _due_of(self, entry: Entry) -> int | None:
        """By when psi must be there for the last of the joiners to be within its budget; None when one has none."""
        ranks, cost = [self._books.ranks[rank_id] for rank_id in entry.joiners], self._books.cost
        dues = [
            rank.due_ns - cost.rank_ns(rank.suffix_tokens, 0, rank.chain.token_count)
            for rank in ranks
            if rank.due_ns is not None
        ]
        return max(dues) if dues and len(dues) == len(ranks) else None

    def _begin(self, entry: Entry, cause: Cause) -> None:
        job_id = self._books.entries.draw_job(entry)
        entry.is_reloaded, entry.is_reload_overdue, entry.job_trace = False, False, entry.asked_trace
        was_computing = entry.state == PsiState.PRODUCING
        if entry.tokens or was_computing or not self._books.is_dram_attached:
            self._compute(entry, cause)
            return
        self._books.counters.add("lookups")
        entry.promoted_ns, entry.promoted_due_ns = None, None
        entry.move(PsiState.LOOKING_UP, cause)
        self._books.emit(StartLookup(job_id, entry.key, self._source_of(entry)))

    def _compute(self, entry: Entry, cause: Cause) -> None:
        """Extend from what is complete to the goal. A job that was promoted is promoted again: it is new work."""
        assert entry.job_id is not None and entry.goal_tokens > entry.tokens
        entry.target_tokens = entry.goal_tokens
        entry.promoted_ns, entry.promoted_due_ns = None, None
        entry.move(PsiState.PRODUCING, cause)
        pages = tuple(entry.page_ids[: pages_of(entry.goal_tokens)])
        deadline_ns = self._deadline_of(entry)
        source = self._source_of(entry)
        self._books.emit(
            StartCompute(entry.job_id, entry.key, source, pages, entry.tokens, entry.goal_tokens, deadline_ns)
        )

    def _come_to_rest(self, entry: Entry, cause: Cause) -> None:
        """Stay when complete or held. What a cancelled or failed job left behind, and nobody holds, ends."""
        self._holding.trim(entry)
        missing = entry.chain.token_count - entry.tokens
        was_reached = bool(entry.tokens) and missing < max(1, self._books.rest_tokens)
        if was_reached or entry.tickets or entry.leases:
            entry.move(PsiState.RESIDENT, cause)
        else:
            self._books.counters.add("dropped_unwanted")
            self._holding.drop(entry, cause)

    def _take_reloaded(self, entry: Entry) -> None:
        entry.tokens = entry.stored_tokens = entry.target_tokens
        entry.goal_tokens = max(entry.goal_tokens, entry.tokens)
        entry.is_reloaded, entry.producer_trace = True, entry.job_trace
        for ticket_id in entry.tickets:
            self._books.tickets.open[ticket_id].is_reloaded = True

    def _is_usable(self, entry: Entry, event: LookupEnded) -> bool:
        """True when what was found is a true prefix of what is asked. A longer one cannot be verified."""
        if not 0 < event.tokens <= entry.goal_tokens:
            return False
        return entry.chain.digest_at(event.tokens) == event.digest

    def _is_worth(self, entry: Entry, tokens: int) -> bool:
        """True when reloading is expected to end in the time that it has.

        Without the margin of error: what is begun in vain is given up.
        """
        return not entry.is_reload_overdue and self._books.cost.reload_ns(tokens) <= self._reload_budget_ns(entry)

    def _reload_budget_ns(self, entry: Entry) -> int:
        return max(self._compute_ns(entry), self._books.reload_worth_ns)

    def _compute_ns(self, entry: Entry) -> int:
        return self._books.cost.upper_ns(self._books.cost.extend_ns(entry.goal_tokens, 0))

    def _reload_by_ns(self, entry: Entry, now_ns: int) -> int:
        """When to compute instead; the deadline, when computing would be too late in any case."""
        cost, deadline_ns = self._books.cost, self._deadline_of(entry)
        last_ns = deadline_ns - self._compute_ns(entry)
        if last_ns <= now_ns + cost.upper_ns(cost.reload_ns(entry.goal_tokens)):
            return deadline_ns
        return min(now_ns + self._reload_budget_ns(entry), last_ns)

    def _reported(self, job_id: int, state: PsiState) -> Entry | None:
        """The entry of a report; a job that was told to stop may report from any phase."""
        entry = self._books.entries.by_job.get(job_id)
        if entry is None or entry.state not in (state, PsiState.CANCELLING, PsiState.LEAVING):
            self._books.counters.add("race_report_unexpected")
            return None
        return entry

    def _settle_for(self, entry: Entry, tokens: int) -> None:
        """No more than these is aimed at."""
        entry.goal_tokens = tokens
        for ticket_id in entry.tickets:
            ticket = self._books.tickets.open[ticket_id]
            ticket.need_tokens = min(ticket.need_tokens, tokens)

    def _source_of(self, entry: Entry) -> Chain:
        """A history that reaches the goal, of an open ticket while there is one."""
        for ticket_id in entry.tickets:
            ticket = self._books.tickets.open[ticket_id]
            if ticket.need_tokens >= entry.goal_tokens:
                return ticket.chain
        return entry.chain

    def _deadline_of(self, entry: Entry) -> int:
        """When psi is of no use any more: the last window to close, or the last joiner's deadline."""
        windows = [self._books.tickets.open[ticket_id].window_end_ns for ticket_id in entry.tickets]
        deadlines = [self._books.ranks[rank_id].deadline_ns for rank_id in entry.joiners]
        return max([*windows, *deadlines])
