"""Psi that pass through a device to a pool: the ranker's core keeps its invariants when nothing stays."""

from __future__ import annotations

from bench.load.ablations.passing import PassingResidency
from relaygr.domain.chain import Chain
from relaygr.domain.identity import PsiKey
from services.ranker.core import effects as fx
from services.ranker.core.lifecycle import PsiState
from tests.property.ranker_world import Tokens, World
from tests.property.test_ranker_walk import Walker
from tests.unit.ranker_core.histories import COST

SEEDS = range(30)
STEPS = 500


class PassingWorld(World):
    """Callers who do not expect psi to be kept for their tickets (I1 is the pool's matter)."""

    def pre_infer(self, ticket_id: str, key: PsiKey, asked: Chain, window_ns: int) -> None:
        super().pre_infer(ticket_id, key, asked, window_ns)
        for known in self.open.values():
            known.is_covered = False

    def cover(self, key: PsiKey, content: Tokens) -> None:
        pass

    def perform(self, effect: fx.Effect) -> None:
        super().perform(effect)
        # A lookup that found all there is to produce ends its job, as does one that was told to stop before.
        if isinstance(effect, fx.AbandonLookup) and effect.job_id in self.jobs:
            if self.jobs[effect.job_id].is_cancelled:
                del self.jobs[effect.job_id]


class PassingWalker(Walker):
    def __init__(self, seed: int):
        super().__init__(seed)
        chance = self.chance
        machine = PassingResidency(
            pages_total=chance.randint(4, 12),
            entries_max=chance.randint(2, 6),
            tickets_max=chance.randint(3, 12),
            ranks_max=12,
            spills_max=chance.randint(1, 2),
            tombstone_ns=1_000,
            cost=COST,
        )
        self.world = PassingWorld(machine)
        self.world.attach_dram(self.is_attached)

    def lingering(self) -> list[int]:
        """Complete psi that nothing reads and no copy waits for."""
        books = self.world.machine._books
        return [
            entry.entry_id
            for entry in books.entries.by_id.values()
            if entry.state == PsiState.RESIDENT
            and not (entry.leases or entry.is_pending or entry.entry_id in books.spill_queue)
            # Without a pool a ticket is all that psi has.
            and (books.is_dram_attached or not entry.tickets)
        ]


def test_walks_keep_the_invariants_and_leave_nothing_on_the_device():
    counters: dict[str, int] = {}
    for seed in SEEDS:
        walker = PassingWalker(seed)
        for _ in range(STEPS):
            walker.chance.choices(list(walker.moves), list(walker.moves.values()))[0]()
            assert not walker.lingering()
        walker.world.let_everything_end()
        for name, count in walker.world.machine.snapshot().counters.items():
            counters[name] = counters.get(name, 0) + count
    done = ("spills_stored", "spills_failed", "lookup_hits", "rank_joined", "rank_partial", "tickets_released")
    assert min(counters[name] for name in done) >= 5, {name: counters[name] for name in done}
