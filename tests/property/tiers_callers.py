"""Who asks one ranker: tickets and ranks as their callers see them, and what they are owed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from relaygr.domain.chain import Chain
from relaygr.domain.identity import PsiKey, UserKey
from services.ranker.core import effects as fx
from services.ranker.core import events as ev


@dataclass(eq=False)
class Asked:
    """A rank that has not ended, and its answer."""

    key: PsiKey
    chain: Chain
    ticket_id: str | None
    deadline_ns: int
    answer: fx.RankOnPsi | fx.RankInFull | None = None
    life: int = 0
    """Of its user, when it was answered."""


@dataclass(eq=False)
class Open:
    """A ticket that was accepted and has not ended."""

    key: PsiKey
    chain: Chain
    window_end_ns: int
    covered_tokens: int = 0
    """So many of its tokens were seen complete: from then on they must be found (I1)."""


class Callers:
    """Of one ranker process; they lose their answers with it."""

    def __init__(self, ranker: Any):
        self._ranker = ranker
        self.ranks: dict[int, Asked] = {}
        self.open: dict[str, Open] = {}
        self._decisions: list[fx.Accept | fx.Decline] = []
        self._rank_ids = 0

    def pre_infer(self, ticket_id: str, key: PsiKey, chain: Chain, window_ns: int) -> bool:
        """Ask, and be answered exactly once; True when accepted."""
        window_end_ns = self._ranker.now_ns + window_ns
        self._decisions.clear()
        self._ranker.feed(ev.PreInferAsked(ticket_id, key, chain, window_end_ns, f"trace-{ticket_id}"))
        assert [decision.ticket_id for decision in self._decisions] == [ticket_id], "a pre-infer gets one answer"
        is_accepted = isinstance(self._decisions[0], fx.Accept)
        if is_accepted and ticket_id not in self.open:
            self.open[ticket_id] = Open(key, chain, window_end_ns)
        return is_accepted

    def rank(self, key: PsiKey, chain: Chain, ticket_id: str | None, budget_ns: int, suffix_tokens: int) -> int:
        """Ask; the answer may come later."""
        self._rank_ids += 1
        rank_id, ranker = self._rank_ids, self._ranker
        self.ranks[rank_id] = asked = Asked(key, chain, ticket_id, ranker.now_ns + budget_ns)
        untracked = ranker.machine.snapshot().counters["ranks_untracked"]
        ranker.feed(ev.RankAsked(rank_id, key, chain, ticket_id, asked.deadline_ns, suffix_tokens))
        if ranker.machine.snapshot().counters["ranks_untracked"] > untracked:
            asked.ticket_id = None
            return rank_id
        known = self.open.get(ticket_id or "")
        if known is not None and known.key == key and chain.shares(known.chain, chain.token_count):
            self._expect_psi(asked, known)
        return rank_id

    def _expect_psi(self, asked: Asked, known: Open) -> None:
        """A rank with an open ticket of its history finds at least what was seen complete, or waits for more."""
        covered = min(known.covered_tokens, asked.chain.token_count)
        if covered and asked.answer is not None:
            assert isinstance(asked.answer, fx.RankOnPsi), f"an open ticket's psi was lost: {asked.answer}"
            assert asked.answer.tokens >= covered, "an open ticket's psi was shortened"

    def decide(self, effect: fx.Accept | fx.Decline) -> None:
        self._decisions.append(effect)

    def answer(self, effect: fx.RankOnPsi | fx.RankInFull) -> None:
        asked = self.ranks[effect.rank_id]
        assert asked.answer is None, "a rank was answered twice"
        asked.answer = effect
        asked.life = self._ranker.life_of(asked.key.owner)
        self.check_lease(asked)

    def check_lease(self, asked: Asked) -> None:
        """I5: what a rank may read now is its own history, complete, of the life in which it was leased."""
        if isinstance(asked.answer, fx.RankOnPsi):
            tokens = asked.answer.tokens
            assert 0 < tokens <= asked.chain.token_count
            is_right = self._ranker.holds(asked.answer.page_ids, asked.key, asked.life, asked.chain.digest, tokens)
            assert is_right, f"a rank of {asked.key.owner} reads tokens that are not its own"

    def end_rank(self, rank_id: int) -> None:
        """The compute has ended, or there was never one."""
        asked = self.ranks[rank_id]
        self.check_lease(asked)
        del self.ranks[rank_id]
        if asked.answer is None:
            self._ranker.feed(ev.RankAbandoned(rank_id))
            return
        self.open.pop(asked.ticket_id or "", None)
        self._ranker.feed(ev.RankEnded(rank_id))

    def abandon_rank(self, rank_id: int) -> None:
        """The caller went away before the compute began."""
        self.check_lease(self.ranks.pop(rank_id))
        self._ranker.feed(ev.RankAbandoned(rank_id))

    def hang_up(self, rank_id: int) -> None:
        """The caller went away while the compute runs: nothing happens, since it goes on reading."""

    def release(self, ticket_id: str) -> None:
        self.open.pop(ticket_id, None)
        self._ranker.feed(ev.TicketReleased(ticket_id))

    def forget(self, owner: UserKey) -> None:
        self.open = {ticket_id: known for ticket_id, known in self.open.items() if known.key.owner != owner}

    def close_windows(self) -> None:
        now_ns = self._ranker.now_ns
        self.open = {ticket_id: known for ticket_id, known in self.open.items() if known.window_end_ns > now_ns}
