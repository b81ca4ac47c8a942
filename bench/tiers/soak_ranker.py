"""A ranker in virtual time: the very machine, and an engine whose work takes as long as the cost model says.

Pages hold whose page they are, so that a rank or a copy that reads another's is noticed.

Source: design, section 3 (ranker), invariants I5, I6, I7.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from random import Random

from bench.tiers.soak_dram import SoakExpander
from bench.tiers.soak_link import Pinned, SoakLink
from bench.tiers.soak_time import Act, Timeline
from bench.tiers.soak_watch import SoakFailed, Watch, books_of
from relaygr.domain.chain import Chain
from relaygr.domain.cost import CostModel
from relaygr.domain.identity import PsiKey
from services.ranker.core import effects as fx
from services.ranker.core import events as ev
from services.ranker.core.pages import pages_of
from services.ranker.core.residency import Residency

CHUNK_TOKENS = 256
FAILED_SHARE = 0.01
"""Of computes, those that the device ends with an error."""
CHECK_EVERY = 256
UNANSWERED_NS = 2_000_000_000
"""Beyond its deadline no rank waits so long for its place."""


@dataclass(slots=True, eq=False)
class _Job:
    key: PsiKey
    is_fetching: bool = False
    """A lookup or a reload is under way, whose end nobody has been told yet."""
    is_cancelled: bool = False
    is_given_up: bool = False
    pinned: Pinned | None = None


@dataclass(slots=True)
class _Rank:
    key: PsiKey
    tokens: int
    suffix_tokens: int
    deadline_ns: int
    is_answered: bool = False
    is_abandoned: bool = False


@dataclass(slots=True)
class Tallied:
    """What a ranker did that no counter of its core tells."""

    ranks: int = 0
    wrong_pages: int = 0
    """Times that somebody was about to read, or had read, another's page."""
    effects: hashlib.blake2b = field(default_factory=lambda: hashlib.blake2b(digest_size=16))
    """Every effect, in order."""


class SoakRanker:
    """One process, from its start to its end.

    Args:
        name: its id.
        epoch: its boot.
        timeline: whose time it lives in.
        residency: the machine, fresh.
        expander: the host's.
        cost: how long work takes, give or take.
        chance: noise, failures, what gets lost.
        tallied: of all boots.
    """

    def __init__(
        self,
        *,
        name: str,
        epoch: int,
        timeline: Timeline,
        residency: Residency,
        expander: SoakExpander,
        cost: CostModel,
        chance: Random,
        tallied: Tallied,
    ) -> None:
        self.name = name
        self.epoch = epoch
        self.residency = residency
        self.tallied = tallied
        self.is_dead = False
        self._timeline = timeline
        self._cost = cost
        self._chance = chance
        self._watch = Watch(name, residency)
        self._paused_until_ns = 0
        self._armed_ns: int | None = None
        self._device_free_ns = 0
        self._jobs: dict[int, _Job] = {}
        self._ranks: dict[int, _Rank] = {}
        self._ranks_asked = 0
        self._pages: dict[int, tuple[PsiKey, int]] = {}
        self._events = 0
        self.link = SoakLink(self, expander, chance, lambda attached: self.feed(ev.DramAttached(attached)))
        self.link.start()

    @property
    def now_ns(self) -> int:
        """Now."""
        return self._timeline.now_ns

    def later(self, delay_ns: int, act: Act) -> None:
        """Have something done, later still while stopped, and never once killed."""
        self._timeline.after(delay_ns, lambda: self._wake(act))

    def kill(self) -> None:
        """It does nothing any more."""
        self.is_dead = True
        self.link.release_locks()

    def pause(self, for_ns: int) -> None:
        """It does nothing for a while."""
        self._paused_until_ns = self.now_ns + for_ns

    @property
    def is_paused(self) -> bool:
        """True while it is stopped."""
        return self.now_ns < self._paused_until_ns

    def feed(self, event: ev.Event) -> None:
        """Hand an event to the machine, and do what it says."""
        self._perform(self.residency.handle(event, self.now_ns), type(event).__name__)

    def rank(self, key: PsiKey, chain: Chain, ticket_id: str | None, deadline_ns: int, suffix_tokens: int) -> int:
        """Ask for a rank; its id."""
        self._ranks_asked += 1
        self.tallied.ranks += 1
        rank_id = self._ranks_asked
        self._ranks[rank_id] = _Rank(key, chain.token_count, suffix_tokens, deadline_ns)
        self.feed(ev.RankAsked(rank_id, key, chain, ticket_id, deadline_ns, suffix_tokens))
        return rank_id

    def abandon(self, rank_id: int) -> None:
        """The caller of a rank goes away; nothing when its compute has begun."""
        rank = self._ranks.get(rank_id)
        if rank is not None and not rank.is_answered:
            del self._ranks[rank_id]
            self.feed(ev.RankAbandoned(rank_id))

    def look(self) -> None:
        """Nothing is stuck, nobody waits for ever.

        Raises:
            SoakFailed: otherwise.
        """
        if self.is_paused:
            return
        self._watch.look(self.now_ns)
        for rank_id, rank in self._ranks.items():
            if not rank.is_answered and self.now_ns > rank.deadline_ns + UNANSWERED_NS:
                raise SoakFailed(f"rank {rank_id} of {self.name} has no answer {UNANSWERED_NS} ns after its deadline")

    def left(self) -> dict[str, int]:
        """What is not at rest, by kind; tombstones are of their own."""
        books = books_of(self.residency)
        seen = self.residency.snapshot()
        resident = sum(len(entry.page_ids) for entry in books.entries.by_id.values())
        found = {
            "tickets": seen.open_tickets,
            "reserved_pages": seen.reserved_pages,
            "lost_pages": seen.total_pages - books.pages.free_pages - resident,
            "leases": sum(len(entry.leases) for entry in books.entries.by_id.values()),
            "ranks": len(books.ranks) + books.untracked_ranks + len(self._ranks),
            "jobs": len(books.entries.by_job) + len(self._jobs),
            "stores": len(books.spills) + len(books.spill_queue) + (not self.link.is_idle),
            "leaving": sum(books.entries.leaving.values()),
            "alarms": len(books.alarms) - len(books.tombstones),
            "tombstones": len(books.tombstones),
        }
        return found

    def _wake(self, act: Act) -> None:
        if self.is_dead:
            return
        if self.is_paused:
            self._timeline.at(self._paused_until_ns, lambda: self._wake(act))
            return
        act()

    def _perform(self, effects: list[fx.Effect], cause: str) -> None:
        for effect in effects:
            self.tallied.effects.update(_told(self.now_ns, self.name, effect))
            self._do(effect)
        self._watch.note(cause, self.now_ns)
        self._events += 1
        if self._events % CHECK_EVERY == 0:
            self.residency.check()
        self._arm()

    def _arm(self) -> None:
        due_ns = self.residency.deadline_ns()
        if due_ns is not None and (self._armed_ns is None or due_ns < self._armed_ns):
            self._armed_ns = due_ns
            self.later(max(0, due_ns - self.now_ns), lambda: self._expire(due_ns))

    def _expire(self, due_ns: int) -> None:
        if self._armed_ns == due_ns:
            self._armed_ns = None
            self._perform(self.residency.expire(self.now_ns), "time")

    def _do(self, effect: fx.Effect) -> None:
        match effect:
            case fx.StartLookup(job_id, key, _):
                job = self._jobs[job_id] = _Job(key, is_fetching=True)
                self.link.lookup(key, lambda pinned: self._looked_up(job_id, job, pinned))
            case fx.AbandonLookup(job_id):
                self._let_go(job_id)
            case fx.GiveUpReload(job_id):
                self._give_up(job_id)
            case fx.StartReload():
                self._reload(effect)
            case fx.StartCompute(job_id, key):
                self._jobs[job_id] = _Job(key)
                self._compute(effect, effect.from_tokens)
            case fx.CancelProduction(job_id):
                if job_id in self._jobs:
                    self._jobs[job_id].is_cancelled = True
            case fx.RankOnPsi():
                self._rank_on(effect.rank_id, effect.tokens, effect.page_ids)
            case fx.RankInFull(rank_id):
                self._rank_on(rank_id, 0, ())
            case fx.StartSpill():
                self._spill(effect)
            case fx.ForgetDram(owner):
                self.link.forget(owner)
            case _:
                pass

    def _looked_up(self, job_id: int, job: _Job, pinned: Pinned | None) -> None:
        if job.is_given_up:
            if pinned is not None:
                self.link.abandon(pinned)
            return
        job.is_fetching = False
        if job.is_cancelled or pinned is None:
            del self._jobs[job_id]
            if pinned is not None:
                self.link.abandon(pinned)
        else:
            job.pinned = pinned
        content = None if pinned is None else pinned.found.content
        tokens, digest = (0, b"") if content is None else (content.tokens, content.chain_digest)
        self.later(0, lambda: self.feed(ev.LookupEnded(job_id, tokens, digest)))

    def _give_up(self, job_id: int) -> None:
        """End a lookup or a reload now; what its end brings later is let go."""
        job = self._jobs.get(job_id)
        if job is None or not job.is_fetching:
            return
        job.is_given_up = True
        del self._jobs[job_id]
        ended = ev.LookupEnded(job_id, 0, b"") if job.pinned is None else ev.ReloadEnded(job_id, False)
        self.later(0, lambda: self.feed(ended))

    def _let_go(self, job_id: int) -> None:
        job = self._jobs.pop(job_id, None)
        if job is not None and job.pinned is not None:
            self.link.abandon(job.pinned)

    def _reload(self, effect: fx.StartReload) -> None:
        job = self._jobs[effect.job_id]
        assert job.pinned is not None
        job.is_fetching = True

        def ended(is_ok: bool) -> None:
            if job.is_given_up:
                return
            del self._jobs[effect.job_id]
            if is_ok:
                self._write(effect.page_ids, job.key, 0, effect.tokens)
            self.later(0, lambda: self.feed(ev.ReloadEnded(effect.job_id, is_ok)))

        self.link.load(job.pinned, job.key, self._about(self._cost.reload_ns(effect.tokens)), ended)

    def _compute(self, effect: fx.StartCompute, done: int) -> None:
        """One chunk after another, each behind what the device was asked for before."""
        end = min(effect.to_tokens, done + CHUNK_TOKENS)
        # A device that is behind drops what nobody can use any more.
        is_late = max(self.now_ns, self._device_free_ns) > effect.deadline_ns
        is_failing = self._chance.random() < FAILED_SHARE

        def ended() -> None:
            if self._jobs[effect.job_id].is_cancelled or is_late or is_failing:
                del self._jobs[effect.job_id]
                self.feed(ev.ProductionFailed(effect.job_id, "cancelled, late or failed"))
                return
            self._write(effect.page_ids, effect.key, done, end)
            if end == effect.to_tokens:
                del self._jobs[effect.job_id]
            else:
                self._compute(effect, end)
            self.feed(ev.ChunkEnded(effect.job_id, end))

        self._on_device(0 if is_late else self._cost.extend_ns(end - done, done), ended)

    def _rank_on(self, rank_id: int, tokens: int, page_ids: tuple[int, ...]) -> None:
        rank = self._ranks[rank_id]
        assert not rank.is_answered, "a rank was answered twice"
        rank.is_answered = True
        candidates = rank.suffix_tokens
        self._read(page_ids, rank.key, tokens)

        def ended() -> None:
            self._read(page_ids, rank.key, tokens)
            del self._ranks[rank_id]
            self.feed(ev.RankEnded(rank_id))

        self._on_device(self._cost.rank_ns(candidates, rank.tokens - tokens, tokens), ended)

    def _spill(self, effect: fx.StartSpill) -> None:
        self._read(effect.page_ids, effect.key, effect.tokens)

        def ended(is_stored: bool, tokens: int) -> None:
            self._read(effect.page_ids, effect.key, tokens)
            self.later(0, lambda: self.feed(ev.SpillEnded(effect.entry_id, is_stored)))

        length_bytes = effect.tokens * self._cost.token_bytes
        self.link.store(effect.key, effect.tokens, effect.digest, length_bytes, ended)

    def _on_device(self, work_ns: int, ended: Act) -> None:
        self._device_free_ns = max(self.now_ns, self._device_free_ns) + self._about(work_ns)
        self.later(self._device_free_ns - self.now_ns, ended)

    def _about(self, work_ns: int) -> int:
        return int(work_ns * self._chance.uniform(0.9, 1.2))

    def _write(self, page_ids: tuple[int, ...], key: PsiKey, first: int, end: int) -> None:
        for place in range(pages_of(first + 1) - 1, pages_of(end)):
            self._pages[page_ids[place]] = key, place

    def _read(self, page_ids: tuple[int, ...], key: PsiKey, tokens: int) -> None:
        held = (self._pages.get(page_ids[place]) == (key, place) for place in range(pages_of(tokens)))
        self.tallied.wrong_pages += not all(held)


def _told(now_ns: int, name: str, effect: fx.Effect) -> bytes:
    """An effect in bytes: what it is, whose, and which pages; chains and traces follow from these."""
    first = getattr(effect, effect.__slots__[0])
    said = (now_ns, name, type(effect).__name__, first, getattr(effect, "page_ids", ()), getattr(effect, "tokens", 0))
    return repr(said).encode()
