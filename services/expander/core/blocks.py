"""Who holds which of the fixed-size blocks, counted exactly.

Source: design, section 3 (expander), invariant I3.
"""

from __future__ import annotations

from collections.abc import Iterable

from services.expander.core.stamps import Stamps, Unstamped

Holder = str | int
"""Who blocks are counted to: a tenant by its name, a ranker by its owner index."""


class Blocks:
    """An allocator over `count` blocks; the block given back last is handed out first.

    Blocks that were never handed out come last and in order, so that they are a number and no list.
    """

    def __init__(self, count: int, stamps: Stamps | None = None):
        self.count = count
        self._stamps = Unstamped() if stamps is None else stamps
        self._free: list[int] = []
        """Given back, the last one at the end."""
        self._holder: list[int] = []
        """Generation by block, 0 for nobody; of the blocks that were ever handed out, which are the first ones."""
        self._held_by: dict[Holder, int] = {}

    @property
    def free_count(self) -> int:
        """Blocks that nobody holds."""
        return len(self._free) + self.count - len(self._holder)

    def held_by(self, holder: Holder) -> int:
        """Blocks of a tenant or a ranker, staged and quarantined ones included."""
        return self._held_by.get(holder, 0)

    def counts(self) -> list[tuple[Holder, int]]:
        """What each tenant and ranker holds, nothing left out."""
        return list(self._held_by.items())

    def allocate(self, count: int, generation: int, holders: Iterable[Holder]) -> tuple[int, ...] | None:
        """Take blocks for a generation, counted to each holder; None when there are not enough."""
        assert count > 0 and generation > 0
        if count > self.free_count:
            return None
        again = min(count, len(self._free))
        taken = [self._free.pop() for _ in range(again)]
        for block in taken:
            assert self._holder[block] == 0, "a free block has a holder"
            self._holder[block] = generation
        first = len(self._holder)
        self._holder += [generation] * (count - again)
        blocks = (*taken, *range(first, len(self._holder)))
        for holder in holders:
            self._held_by[holder] = self.held_by(holder) + count
        self._stamps.stamp(blocks, generation)
        return blocks

    def revoke(self, blocks: tuple[int, ...], generation: int) -> None:
        """Tell whoever reads or writes blocks of this generation that it may not; they stay held."""
        assert all(self._holder[block] == generation for block in blocks), "blocks of another are revoked"
        self._stamps.clear(blocks)

    def free(self, blocks: tuple[int, ...], generation: int, holders: Iterable[Holder]) -> None:
        """Give blocks back; only by the generation that took them."""
        for block in blocks:
            assert self._holder[block] == generation, "a block is freed by another than its holder"
            self._holder[block] = 0
        self._stamps.clear(blocks)
        self._free.extend(reversed(blocks))
        for holder in holders:
            self.uncount(len(blocks), holder)

    def uncount(self, count: int, holder: Holder) -> None:
        """Blocks that are held on, but not counted to this holder any more."""
        left = self._held_by[holder] - count
        assert left >= 0
        if left:
            self._held_by[holder] = left
        else:
            del self._held_by[holder]

    def check(self, held: Iterable[tuple[int, Iterable[Holder], tuple[int, ...]]]) -> None:
        """Assert that exactly these (generation, holders, blocks) hold everything that is not free."""
        counted: dict[Holder, int] = {}
        # What each block should say of itself: whoever comes later would show a block that is in two places.
        holder, places = [0] * len(self._holder), 0
        for generation, holders, blocks in held:
            for each in holders:
                counted[each] = counted.get(each, 0) + len(blocks)
            places += len(blocks)
            for block in blocks:
                holder[block] = generation
        assert holder == self._holder, "a block has another holder"
        assert len(holder) - holder.count(0) == places, "a block is in two places"
        assert counted == self._held_by, "a tenant's or a ranker's blocks are miscounted"
        for block in self._free:
            assert not holder[block], "a block is free twice, or held and free"
            holder[block] = -1
        assert not holder.count(0), "blocks leaked"
        assert len(holder) <= self.count
