"""One ranker process: the residency machine, an arena with real bytes, and its work in steps.

A compute scribbles over its chunk when it begins it and writes it when it ends it, so that whoever may read a torn
page, does. Callers are in tiers_callers.py, the way to DRAM in tiers_dram.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from relaygr.domain.chain import PAGE_TOKENS
from relaygr.domain.identity import PsiKey, UserKey
from services.ranker.core import effects as fx
from services.ranker.core import events as ev
from services.ranker.core.residency import Residency
from tests.property.tiers_callers import Callers
from tests.property.tiers_dram import DramSide, Pinned, Store
from tests.property.tiers_histories import TOKEN_BYTES, Bytes, psi
from tests.unit.ranker_core.histories import residency

Steps = Iterator[None]


@dataclass(frozen=True)
class Sizes:
    """Of one ranker."""

    pages_total: int = 7
    entries_max: int = 4
    tickets_max: int = 5
    ranks_max: int = 6
    spills_max: int = 2
    rest_tokens: int = 0
    reload_worth_ns: int = 0
    chunk_tokens: int = 128


@dataclass(eq=False)
class Job:
    """A production under way."""

    key: PsiKey
    phase: str
    steps: Steps
    life: int
    pinned: Pinned | None = None
    is_cancelled: bool = False
    is_given_up: bool = False
    """Its lookup or reload was told to end: because it took too long, or because the job is cancelled."""


@dataclass(eq=False)
class Spill:
    """A copy of an entry to DRAM."""

    key: PsiKey
    steps: Steps


class Ranker:
    """A process. Time, the expander and the lives of users are the world's."""

    def __init__(self, world: Any, name: str, epoch: int, model_key: str, sizes: Sizes):
        self._world = world
        self.name, self.epoch, self.model_key, self.sizes = name, epoch, model_key, sizes
        self.machine: Residency = residency(
            pages_total=sizes.pages_total,
            entries_max=sizes.entries_max,
            tickets_max=sizes.tickets_max,
            ranks_max=sizes.ranks_max,
            spills_max=sizes.spills_max,
            rest_tokens=sizes.rest_tokens,
            reload_worth_ns=sizes.reload_worth_ns,
            tombstone_ns=80_000,
        )
        self._arena: Bytes = np.zeros((sizes.pages_total, PAGE_TOKENS, TOKEN_BYTES), dtype=np.uint8)
        self.callers = Callers(self)
        self.dram = DramSide(world, self)
        self.jobs: dict[int, Job] = {}
        self.spills: dict[int, Spill] = {}
        self.errands: list[Steps] = []
        """What nobody waits for: pins to be let go, calls to be repeated."""
        self.lives: dict[UserKey, int] = dict(world.lives)
        """Of which life of each user this process was told last."""
        self.inbox: list[tuple[UserKey, int]] = []
        """Forgets that have not arrived yet."""
        self.is_stopped = False

    @property
    def work(self) -> list[Job | Spill]:
        """What somebody waits for."""
        return [*self.jobs.values(), *self.spills.values()]

    @property
    def now_ns(self) -> int:
        return int(self._world.now_ns)

    def life_of(self, owner: UserKey) -> int:
        return self.lives.get(owner, 0)

    def has(self, key: PsiKey) -> bool:
        """True when the device has psi of this key, or is making it."""
        return key in self.machine._books.entries.by_key

    # Events

    def feed(self, event: ev.Event) -> None:
        for effect in self.machine.handle(event, self.now_ns):
            self._perform(effect)

    def expire(self) -> None:
        """What the driver's timer does."""
        self.callers.close_windows()
        deadline_ns = self.machine.deadline_ns()
        if deadline_ns is not None and deadline_ns <= self.now_ns:
            for effect in self.machine.expire(self.now_ns):
                self._perform(effect)
        deadline_ns = self.machine.deadline_ns()
        assert deadline_ns is None or deadline_ns > self.now_ns, "expire left work that is due"

    def note_dram(self, is_attached: bool) -> None:
        self.feed(ev.DramAttached(is_attached))

    def take_in(self) -> None:
        """Forgets arrive."""
        while self.inbox:
            owner, life = self.inbox.pop(0)
            self.lives[owner] = life
            self.callers.forget(owner)
            self.feed(ev.UserForgotten(owner))
            for job in self.jobs.values():
                assert job.is_cancelled or job.key.owner != owner, "a forgotten user's job goes on"

    # Bytes

    def read(self, page_ids: Sequence[int], tokens: int) -> Bytes:
        pages = self._arena[list(page_ids)].reshape(-1, TOKEN_BYTES)
        assert len(pages) >= tokens, "more tokens than pages"
        return pages[:tokens]

    def holds(self, page_ids: Sequence[int], key: PsiKey, life: int, digest: bytes, tokens: int) -> bool:
        """True when the pages hold exactly this psi."""
        return np.array_equal(self.read(page_ids, tokens), psi(key, life, digest, tokens))

    def _views(self, page_ids: Sequence[int]) -> list[Bytes]:
        return [self._arena[page_id].reshape(-1) for page_id in page_ids]

    def _write(self, page_ids: Sequence[int], first: int, values: Bytes) -> None:
        at = np.arange(first, first + len(values))
        self._arena[np.asarray(page_ids)[at // PAGE_TOKENS], at % PAGE_TOKENS] = values

    # Effects

    def _perform(self, effect: fx.Effect) -> None:
        match effect:
            case fx.Accept() | fx.Decline():
                self.callers.decide(effect)
            case fx.RankOnPsi() | fx.RankInFull():
                self.callers.answer(effect)
            case fx.StartLookup(job_id, key):
                pinned = self.dram.lookup(key)
                self._start(job_id, Job(key, "lookup", self._lookup(job_id), self.life_of(key.owner), pinned))
            case fx.AbandonLookup(job_id):
                self._abandon(job_id)
            case fx.StartReload(job_id, page_ids, tokens):
                job = self.jobs[job_id]
                assert job.phase == "lookup ended" and job.pinned is not None and not job.is_given_up
                pinned, job.pinned = job.pinned, None
                job.phase, job.steps = "reload", self._reload(job_id, pinned, page_ids, tokens)
            case fx.StartCompute(job_id, key):
                before = self.jobs.pop(job_id, None)
                assert before is None or before.phase.endswith("ended")
                life = self.life_of(key.owner)
                self._start(job_id, Job(key, "compute", self._compute(effect, life), life))
            case fx.CancelProduction(job_id):
                self.jobs[job_id].is_cancelled = self.jobs[job_id].is_given_up = True
            case fx.GiveUpReload(job_id):
                job = self.jobs[job_id]
                assert job.phase in ("lookup", "reload") and not job.is_given_up and not job.is_cancelled
                job.is_given_up = True
            case fx.PromoteProduction(job_id) | fx.DemoteProduction(job_id):
                assert job_id in self.jobs, "a loan to no job"
            case fx.StartSpill():
                self._spill(effect)
            case fx.ForgetDram(owner):
                self.dram.forget(owner)
                if self._world.expander is not None:
                    self._world.expander.evict(owner, self.now_ns, self._world.lives.get(owner, 0))
            case _:
                raise AssertionError(f"an effect that nobody performs: {effect}")

    def _start(self, job_id: int, job: Job) -> None:
        assert job_id not in self.jobs
        assert all(other.key != job.key for other in self.jobs.values()), "two producers of one key"
        self.jobs[job_id] = job

    def _abandon(self, job_id: int) -> None:
        job = self.jobs.get(job_id)
        if job is not None and job.pinned is not None:
            pinned, job.pinned = job.pinned, None
            self.errands.append(self.dram.abandon(pinned))

    # Work, in steps

    def advance(self, steps: Steps) -> bool:
        """One step; False when it was the last."""
        for _ in steps:
            return True
        return False

    def fail(self, job_id: int) -> None:
        """A compute ends early."""
        job = self.jobs.pop(job_id)
        self.feed(ev.ProductionFailed(job_id, "cancelled" if job.is_cancelled else "device"))

    def _lookup(self, job_id: int) -> Steps:
        yield
        job = self.jobs[job_id]
        # Told to end, it reports that nothing was found, unless its answer was there already.
        if job.is_given_up and job_id % 2:
            self._abandon(job_id)
        found = None if job.pinned is None else job.pinned.found.content
        job.phase = "lookup ended"
        if job.is_cancelled:
            self._abandon(job_id)
            del self.jobs[job_id]
        self.feed(ev.LookupEnded(job_id, found.tokens if found else 0, found.chain_digest if found else b""))
        assert job.phase != "lookup ended" or job.pinned is None, "a lookup's pin was kept"
        if self.jobs.get(job_id) is job and job.phase == "lookup ended":
            del self.jobs[job_id]

    def _reload(self, job_id: int, pinned: Pinned, page_ids: tuple[int, ...], tokens: int) -> Steps:
        content, job = pinned.found.content, self.jobs[job_id]
        assert tokens == content.tokens
        is_ok = yield from self.dram.load(pinned, self._views(page_ids), lambda: job.is_given_up)
        if is_ok:
            is_right = self.holds(page_ids, pinned.key, job.life, content.chain_digest, tokens)
            assert is_right, "a load that is said to be good is not"
        # Told to end, it reports that it failed, unless its report was on its way already.
        is_ok = bool(is_ok) and not (job.is_given_up and job_id % 2)
        del self.jobs[job_id]
        self.feed(ev.ReloadEnded(job_id, is_ok))

    def _compute(self, effect: fx.StartCompute, life: int) -> Steps:
        key, chain, page_ids, done = effect.key, effect.chain, effect.page_ids, effect.from_tokens
        while done < effect.to_tokens:
            end = min(done + self.sizes.chunk_tokens, effect.to_tokens)
            whole = psi(key, life, chain.digest, end)
            self._write(page_ids, done, np.full_like(whole[done:], 0xEE))
            yield
            assert self._has_prefix(page_ids, whole, done), "an extend reads tokens that are not its own"
            self._write(page_ids, done, whole[done:])
            done = end
            if done == effect.to_tokens:
                del self.jobs[effect.job_id]
            self.feed(ev.ChunkEnded(effect.job_id, done))

    def _has_prefix(self, page_ids: Sequence[int], whole: Bytes, tokens: int) -> bool:
        return np.array_equal(self.read(page_ids, tokens), whole[:tokens])

    def _spill(self, effect: fx.StartSpill) -> None:
        life = self.life_of(effect.key.owner)
        assert effect.entry_id not in self.spills
        assert self.holds(effect.page_ids, effect.key, life, effect.digest, effect.tokens), "wrong psi goes to DRAM"
        store = Store(effect.key, effect.tokens, effect.digest, effect.producer_trace, life)
        steps = self._store(effect, store)
        self.spills[effect.entry_id] = Spill(effect.key, steps)
        self.advance(steps)  # the call is made at once; its answer may take its time

    def _store(self, effect: fx.StartSpill, store: Store) -> Steps:
        yield from self.dram.store(store, self._views(effect.page_ids))
        is_whole = self.holds(effect.page_ids, effect.key, store.life, effect.digest, effect.tokens)
        assert is_whole, "pages changed while they were copied"
        del self.spills[effect.entry_id]
        self.feed(ev.SpillEnded(effect.entry_id, store.is_stored))

    # Ends

    def kill(self) -> None:
        """The process dies, whatever it was doing."""
        self.dram.kill()
        for work in self.work:
            work.steps.close()
