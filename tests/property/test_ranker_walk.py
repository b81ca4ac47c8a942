"""Long seeded walks of the ranker's core: every row of the table is taken, and equal seeds give equal effects."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from services.ranker.core import entries
from services.ranker.core import events as ev
from services.ranker.core.lifecycle import TRANSITIONS, Cause, PsiState, assert_allowed
from services.ranker.core.residency import RELOAD_WORTH_NS
from tests.property.ranker_world import World
from tests.unit.ranker_core.histories import key, residency, user

SEEDS = range(80)
STEPS = 700
USERS = ("ann", "bob", "eve", "kim", "leo", "mia")
LENGTHS = (1, 60, 128, 129, 200, 300, 400)

Transition = tuple[PsiState, Cause, PsiState]

RARE: set[Transition] = {
    (PsiState.CANCELLING, Cause.LOOKUP_ENDED, PsiState.PRODUCING),
    (PsiState.CANCELLING, Cause.LOOKUP_ENDED, PsiState.RESIDENT),
    (PsiState.CANCELLING, Cause.RELOAD_ENDED, PsiState.LOOKING_UP),
    (PsiState.CANCELLING, Cause.RELOAD_ENDED, PsiState.PRODUCING),
    (PsiState.LEAVING, Cause.SPILL_ENDED, PsiState.ABSENT),
}
"""Some seeds take these, but not in every version of the walk; tests/scenarios/ranker has each of them."""


class Walker:
    """One seeded sequence of what callers and engine do."""

    def __init__(self, seed: int):
        self.chance = random.Random(seed)
        chance = self.chance
        rest_tokens = chance.choice((0, 2, 80))
        self.world = World(
            residency(
                pages_total=chance.randint(4, 12),
                entries_max=chance.randint(2, 6),
                tickets_max=chance.randint(3, 12),
                ranks_max=12,
                spills_max=chance.randint(1, 2),
                tombstone_ns=1_000,
                rest_tokens=rest_tokens,
                reload_worth_ns=chance.choice((0, 2_000, RELOAD_WORTH_NS)),
            ),
            rest_tokens,
        )
        self.tickets = 0
        self.is_attached = chance.random() < 0.8
        self.world.attach_dram(self.is_attached)
        self.moves = {
            self.pre_infer: 8,
            self.pre_infer_in_production: 4,
            self.rank: 8,
            self.end_rank: 9,
            self.step: 10,
            self.end_spill: 3,
            self.release: 4,
            self.advance: 5,
            self.store: 4,
            self.rare: 1,
        }

    def walk(self, steps: int) -> None:
        for _ in range(steps):
            self.chance.choices(list(self.moves), list(self.moves.values()))[0]()
        self.world.let_everything_end()

    def history(self, name: str):
        variant = self.chance.choice((0, 0, 0, 0, 0, 1, 2, 3))
        return self.world.history(name, self.chance.choice(LENGTHS), variant)

    def pre_infer(self) -> None:
        self.tickets += 1
        back = self.chance.choice((0, 0, 0, 0, 1, 3))
        name = self.chance.choice(USERS)
        window_ns = self.chance.choice((2_000, 50_000, 500_000))
        self.world.pre_infer(f"t{self.tickets - back}", key(name), self.history(name), window_ns)

    def pre_infer_in_production(self) -> None:
        """The same user again while a job is under way, often one that was told to stop."""
        if self.world.jobs:
            self.tickets += 1
            job = self.chance.choice(
                [job for job in self.world.jobs.values() if job.is_cancelled] or list(self.world.jobs.values())
            )
            name = job.key.owner.user
            asked = self.chance.choice((job.chain, self.history(name)))
            self.world.pre_infer(f"t{self.tickets}", job.key, asked, 50_000)

    def rank(self) -> None:
        budget_ns, suffix_tokens = self.chance.choice((500, 8_000, 30_000, 80_000)), self.chance.randint(1, 40)
        if self.world.open and self.chance.random() < 0.7:
            ticket_id = self.chance.choice(list(self.world.open))
            known = self.world.open[ticket_id]
            self.world.rank(known.key, known.chain, ticket_id, budget_ns, suffix_tokens)
        else:
            name = self.chance.choice(USERS)
            ticket_id = self.chance.choice((None, f"t{self.tickets + self.chance.randint(-3, 1)}"))
            self.world.rank(key(name), self.history(name), ticket_id, budget_ns, suffix_tokens)

    def end_rank(self) -> None:
        if self.world.ranks:
            rank_id = self.chance.choice(list(self.world.ranks))
            self.world.end_rank(rank_id, is_abandoned=self.chance.random() < 0.2)

    def step(self) -> None:
        if self.world.jobs:
            job_id = self.chance.choice(list(self.world.jobs))
            is_failing = self.chance.random() < 0.15
            self.world.step_job(job_id, is_failing=is_failing, chunk_tokens=self.chance.choice((64, 128, 256)))

    def end_spill(self) -> None:
        if self.world.spills:
            self.world.end_spill(self.chance.choice(list(self.world.spills)), is_stored=self.chance.random() < 0.8)

    def release(self) -> None:
        """Rather a ticket whose psi is still being made."""
        busy = {job.key for job in self.world.jobs.values()}
        producing = [ticket_id for ticket_id, known in self.world.open.items() if known.key in busy]
        if self.world.open:
            self.world.release(self.chance.choice(producing or list(self.world.open)))

    def advance(self) -> None:
        self.world.advance(self.chance.choice((200, 2_000, 10_000)))

    def store(self) -> None:
        """Psi that another instance of the host left in DRAM, often just what is being looked up."""
        name = self.chance.choice(USERS)
        stored = [(key(name), self.history(name))]
        stored += [(job.key, job.chain) for job in self.world.jobs.values() if job.phase == "lookup"]
        self.world.store_in_dram(*stored[-1])

    def rare(self) -> None:
        match self.chance.choice((0, 0, 1, 1, 2, 3)):
            case 0:
                owners = [job.key.owner for job in self.world.jobs.values()]
                self.world.forget(self.chance.choice(owners or [user(self.chance.choice(USERS))]))
            case 1:
                self.is_attached = not self.is_attached or self.chance.random() < 0.5
                self.world.attach_dram(self.is_attached)
            case 2:
                self.world.feed(ev.DrainSet(True))
                self.pre_infer()
                self.world.feed(ev.DrainSet(False))
            case _:
                self.world.release(f"t{self.tickets + 1}")


@contextmanager
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[Transition, int]]:
    taken: dict[Transition, int] = {}

    def record(source: PsiState, cause: Cause, target: PsiState) -> None:
        assert_allowed(source, cause, target)
        taken[source, cause, target] = taken.get((source, cause, target), 0) + 1

    with monkeypatch.context() as patch:
        patch.setattr(entries, "assert_allowed", record)
        yield taken


def test_walks_keep_the_invariants_and_take_every_row_of_the_table(monkeypatch):
    counters: dict[str, int] = {}
    with recorded(monkeypatch) as taken:
        for seed in SEEDS:
            walker = Walker(seed)
            walker.walk(STEPS)
            for name, count in walker.world.machine.snapshot().counters.items():
                counters[name] = counters.get(name, 0) + count
    rows = {(source, cause, target) for (source, cause), targets in TRANSITIONS.items() for target in targets}
    assert not rows - taken.keys() - RARE, "rows that no walk takes"
    never = {"declined_cut_gone", "declined_foreign_ticket", "declined_unreachable", "full_foreign_ticket"}
    never |= {"full_bypassed", "tombstones_dropped", "ranks_untracked"}
    idle = {name for name, count in counters.items() if not count and not name.startswith("race_")}
    assert idle <= never, "outcomes that no walk has"


def test_equal_seeds_give_equal_effects():
    def effects_of(seed: int) -> list[str]:
        walker, said = Walker(seed), []
        perform = walker.world.perform
        walker.world.perform = lambda effect: (said.append(repr(effect)), perform(effect))
        walker.walk(200)
        return [text.split(" object at ")[0] for text in said]

    assert effects_of(7) == effects_of(7)
    assert effects_of(7) != effects_of(8)
