"""What a rank gets: psi now, psi soon, or nothing.

A rank that finds its psi in production waits for it while that is predicted to meet its
deadline, and overtakes it from the complete chunks before it is too late for that: waiting
ends at the last moment from which ranking on what is complete still meets the deadline.
Predictions are the cost model's, at the quantile of its error.

Every answer compares the rank's own history with the entry's (I5); nothing is taken on
trust from the ticket.

Source: design, section 3 (ranker), invariants I5, I6, I7.
"""

from __future__ import annotations

from services.ranker.core.books import AlarmKind, Books, Rank, RankState
from services.ranker.core.effects import FallbackReason, RankInFull, RankOnPsi, Tier
from services.ranker.core.entries import Entry
from services.ranker.core.events import RankAsked
from services.ranker.core.lifecycle import PsiState
from services.ranker.core.matching import agrees, usable_tokens
from services.ranker.core.pages import pages_of
from services.ranker.core.tickets import FALLBACK_OF, Closing


class Ranking:
    """Answers ranks, keeps joiners and leases."""

    def __init__(self, books: Books):
        self._books = books

    def ask(self, event: RankAsked, now_ns: int) -> Entry | None:
        """Answer a rank, or let it wait. Returns the entry it joined or leased."""
        rank = Rank(
            event.rank_id,
            event.key,
            event.chain,
            event.ticket_id,
            event.deadline_ns,
            event.suffix_tokens,
            now_ns,
            event.due_ns,
        )
        assert rank.rank_id not in self._books.ranks, f"rank {rank.rank_id} twice"
        if len(self._books.ranks) >= self._books.ranks_max:
            self._refuse(rank)
            return None
        self._books.ranks[rank.rank_id] = rank
        self._note_ticket(rank)
        entry = self._books.entries.by_key.get(rank.key)
        if self._books.is_forgotten(rank.key.owner):
            self._answer_full(rank, FallbackReason.FORGOTTEN)
        elif entry is None:
            self._answer_full(rank, self._reason_absent(rank))
        else:
            self._decide(rank, entry, now_ns)
            return entry
        return None

    def review(self, entry: Entry, now_ns: int) -> None:
        """Answer the joiners whose psi is there, and those for whom it will not be in time."""
        for rank_id in list(entry.joiners):
            self._decide(self._books.ranks[rank_id], entry, now_ns)

    def overtake(self, rank_id: int, now_ns: int) -> Entry:
        """A joiner's waiting is over: answer it from what is complete."""
        rank = self._books.ranks[rank_id]
        entry = self._entry_of(rank)
        self._answer(rank, entry, now_ns)
        return entry

    def forget(self, entry: Entry) -> None:
        """Answer the joiners of a forgotten user."""
        for rank_id in list(entry.joiners):
            self._answer_full(self._books.ranks[rank_id], FallbackReason.FORGOTTEN)

    def end(self, rank_id: int, *, was_abandoned: bool) -> tuple[Entry | None, str | None]:
        """A rank is over: its wait or lease ends.

        Returns the entry it waited for or leased, and the open ticket it consumed.
        """
        rank = self._books.ranks.pop(rank_id, None)
        if rank is None:
            self._count_unknown()
            return None, None
        entry = self._leave(rank)
        ticket_id = rank.ticket_id
        if ticket_id is not None and was_abandoned:
            self._books.tickets.unnote(ticket_id, Closing.RANKED_FIRST)
            ticket_id = None
        elif ticket_id is not None and ticket_id not in self._books.tickets.open:
            self._books.tickets.note(ticket_id, Closing.CONSUMED)
            ticket_id = None
        return entry, ticket_id

    def _decide(self, rank: Rank, entry: Entry, now_ns: int) -> None:
        """Answer, or wait, or go on waiting."""
        if rank.state == RankState.ASKED and agrees(entry.chain, entry.reach_tokens, rank.chain):
            rank.need_tokens = min(rank.chain.token_count, entry.reach_tokens)
        if entry.is_pending and rank.need_tokens:
            until_ns = self._wait_until_ns(rank, entry, now_ns)
            if until_ns is not None:
                self._wait(rank, entry, until_ns)
                return
        self._answer(rank, entry, now_ns)

    def _wait_until_ns(self, rank: Rank, entry: Entry, now_ns: int) -> int | None:
        """Until when to wait; None when there is nothing to wait for or it would be too late."""
        aim = min(rank.need_tokens, entry.promised_tokens)
        if self._books.is_dram_remote and entry.state in (PsiState.LOOKING_UP, PsiState.RELOADING):
            return None  # I2: not for another host's memory.
        if entry.tokens and self._is_enough(aim - entry.tokens):
            return None
        ranked_on_psi_ns = self._rank_ns(rank, aim)
        overtake_by_ns = rank.deadline_ns - self._rank_ns(rank, entry.tokens)
        is_in_time = now_ns + self._remaining_ns(entry, aim) + ranked_on_psi_ns <= rank.deadline_ns
        if overtake_by_ns > now_ns:
            return overtake_by_ns if is_in_time else None
        # Overtaking is predicted to be late. So wait while psi can still help: when that is predicted to
        # be in time, and when no chunk is complete, since progress inside the first chunk is not seen here.
        last_ns = rank.deadline_ns - ranked_on_psi_ns
        return last_ns if last_ns > now_ns and (is_in_time or not entry.tokens) else None

    def _is_enough(self, missing: int) -> bool:
        """True when psi need not grow for a rank that misses so many tokens of it."""
        return missing < max(1, self._books.rest_tokens)

    def _remaining_ns(self, entry: Entry, aim: int) -> int:
        """Until the entry covers `aim` tokens. A lookup is taken to find everything: its answer revises this."""
        cost = self._books.cost
        match entry.state:
            case PsiState.LOOKING_UP:
                return cost.upper_ns(cost.reload_ns(aim))
            case PsiState.RELOADING:
                reload_ns = cost.reload_ns(entry.target_tokens)
                rest = max(aim - entry.target_tokens, 0)
                return cost.upper_ns(reload_ns + (cost.extend_ns(rest, entry.target_tokens) if rest else 0))
            case _:
                return cost.upper_ns(cost.extend_ns(aim - entry.tokens, entry.tokens))

    def _rank_ns(self, rank: Rank, psi_tokens: int) -> int:
        """Ranking on so many tokens of psi: what is missing is inferred with the suffix."""
        tokens = min(psi_tokens, rank.chain.token_count)
        cost = self._books.cost
        return cost.upper_ns(cost.rank_ns(rank.suffix_tokens, rank.chain.token_count - tokens, tokens))

    def _wait(self, rank: Rank, entry: Entry, until_ns: int) -> None:
        if rank.state == RankState.ASKED:
            rank.state, rank.entry_id = RankState.WAITING, entry.entry_id
            entry.joiners[rank.rank_id] = None
            self._books.counters.add("rank_waited")
        self._books.alarms.set((AlarmKind.WAIT, rank.rank_id), until_ns)

    def _answer(self, rank: Rank, entry: Entry, now_ns: int) -> None:
        tokens = usable_tokens(entry.chain, entry.tokens, rank.chain)
        if tokens:
            self._answer_on_psi(rank, entry, tokens, now_ns)
        else:
            self._answer_full(rank, self._reason_unusable(rank, entry))

    def _answer_on_psi(self, rank: Rank, entry: Entry, tokens: int, now_ns: int) -> None:
        missing = rank.chain.token_count - tokens
        is_enough = self._is_enough(missing)
        is_joined = rank.state == RankState.WAITING or (entry.is_pending and not is_enough)
        tier = Tier.JOINED if is_joined else self._tier_of(rank)
        joined_ns = now_ns - rank.asked_ns if rank.state == RankState.WAITING else 0
        self._leave(rank)
        rank.state, rank.entry_id = RankState.LEASED, entry.entry_id
        entry.leases[rank.rank_id] = tokens
        entry.uses += 1
        self._books.counters.add(f"rank_{tier.value.lower()}")
        if missing:
            self._books.counters.add("rank_partial")
        if is_joined and entry.is_pending and not is_enough:
            self._books.counters.add("rank_overtook")
        self._count_answer(rank, is_hit=True)
        pages = tuple(entry.page_ids[: pages_of(tokens)])
        self._books.emit(RankOnPsi(rank.rank_id, entry.entry_id, pages, tokens, tier, entry.producer_trace, joined_ns))

    def _answer_full(self, rank: Rank, reason: FallbackReason) -> None:
        self._leave(rank)
        rank.state, rank.entry_id = RankState.FULL, None
        self._books.counters.add(f"full_{reason.value.lower()}")
        if reason != FallbackReason.FORGOTTEN:
            self._count_answer(rank, is_hit=False, is_lost=self._has_lost(rank))
        self._books.emit(RankInFull(rank.rank_id, reason))

    def _refuse(self, rank: Rank) -> None:
        """The table is full: answer in full and keep nothing of it."""
        self._books.untracked_ranks += 1
        self._books.counters.add("ranks_untracked")
        self._books.counters.add("full_absent")
        self._books.emit(RankInFull(rank.rank_id, FallbackReason.ABSENT))

    def _leave(self, rank: Rank) -> Entry | None:
        """End a rank's wait or lease."""
        if rank.state == RankState.WAITING:
            del self._entry_of(rank).joiners[rank.rank_id]
            self._books.alarms.clear((AlarmKind.WAIT, rank.rank_id))
        elif rank.state == RankState.LEASED:
            del self._entry_of(rank).leases[rank.rank_id]
        else:
            return None
        return self._entry_of(rank)

    def _entry_of(self, rank: Rank) -> Entry:
        assert rank.entry_id is not None
        return self._books.entries.by_id[rank.entry_id]

    def _note_ticket(self, rank: Rank) -> None:
        tickets, ticket_id = self._books.tickets, rank.ticket_id
        if ticket_id is not None and ticket_id not in tickets.open and tickets.closing_of(ticket_id) is None:
            tickets.note(ticket_id, Closing.RANKED_FIRST)

    def _tier_of(self, rank: Rank) -> Tier:
        ticket = self._books.tickets.open.get(rank.ticket_id) if rank.ticket_id is not None else None
        return Tier.DRAM if ticket is not None and ticket.is_reloaded else Tier.DEVICE

    def _reason_absent(self, rank: Rank) -> FallbackReason:
        if rank.ticket_id is None:
            return FallbackReason.NO_TICKET
        closing = self._books.tickets.closing_of(rank.ticket_id)
        return FallbackReason.ABSENT if closing is None else FALLBACK_OF[closing]

    def _reason_unusable(self, rank: Rank, entry: Entry) -> FallbackReason:
        if rank.ticket_id is not None and self._books.tickets.closing_of(rank.ticket_id) == Closing.DECLINED:
            return FallbackReason.DECLINED
        if entry.tokens or not agrees(entry.chain, entry.reach_tokens, rank.chain):
            return FallbackReason.DIGEST_MISMATCH
        return FallbackReason.PRODUCTION_FAILED

    def _has_lost(self, rank: Rank) -> bool:
        """True when an open ticket's psi is neither there nor on its way. One on its way is late, not lost."""
        entry = self._books.entries.by_key.get(rank.key)
        return rank.ticket_id in self._books.tickets.open and (entry is None or not entry.is_pending)

    def _count_answer(self, rank: Rank, *, is_hit: bool, is_lost: bool = False) -> None:
        """Survival (I1): of the tickets whose rank came, how many found psi. A forgotten user's is no loss."""
        if rank.ticket_id is not None and self._books.tickets.first_answer(rank.ticket_id):
            self._books.counters.add("rank_with_ticket")
            if is_hit:
                self._books.counters.add("rank_with_ticket_hit")
            if is_lost:
                self._books.counters.add("rank_with_ticket_lost")

    def _count_unknown(self) -> None:
        if self._books.untracked_ranks:
            self._books.untracked_ranks -= 1
        else:
            self._books.counters.add("race_rank_unknown")
