"""Who holds which of the fixed-size blocks, counted exactly.

Source: design, section 3 (expander), invariant I3.
"""

from __future__ import annotations

from collections.abc import Iterable


class Blocks:
    """An allocator over `count` blocks; the block given back last is handed out first."""

    def __init__(self, count: int):
        self.count = count
        self._free = list(range(count - 1, -1, -1))
        self._holder = [0] * count
        self._held_by_tenant: dict[str, int] = {}

    @property
    def free_count(self) -> int:
        """Blocks that nobody holds."""
        return len(self._free)

    def held_by(self, tenant: str) -> int:
        """Blocks of a tenant, staged and quarantined ones included."""
        return self._held_by_tenant.get(tenant, 0)

    def allocate(self, count: int, generation: int, tenant: str) -> tuple[int, ...] | None:
        """Take blocks for a generation, or None when there are not enough."""
        assert count > 0 and generation > 0
        if count > len(self._free):
            return None
        blocks = tuple(self._free.pop() for _ in range(count))
        for block in blocks:
            assert self._holder[block] == 0, "a free block has a holder"
            self._holder[block] = generation
        self._held_by_tenant[tenant] = self.held_by(tenant) + count
        return blocks

    def free(self, blocks: tuple[int, ...], generation: int, tenant: str) -> None:
        """Give blocks back; only by the generation that took them."""
        for block in blocks:
            assert self._holder[block] == generation, "a block is freed by another than its holder"
            self._holder[block] = 0
        self._free.extend(reversed(blocks))
        left = self._held_by_tenant[tenant] - len(blocks)
        assert left >= 0
        if left:
            self._held_by_tenant[tenant] = left
        else:
            del self._held_by_tenant[tenant]

    def check(self, holders: Iterable[tuple[int, str, tuple[int, ...]]]) -> None:
        """Assert that exactly these (generation, tenant, blocks) hold everything that is not free."""
        seen: set[int] = set()
        by_tenant: dict[str, int] = {}
        for generation, tenant, blocks in holders:
            by_tenant[tenant] = by_tenant.get(tenant, 0) + len(blocks)
            for block in blocks:
                assert block not in seen, f"block {block} is in two places"
                assert self._holder[block] == generation, f"block {block} has another holder"
                seen.add(block)
        assert by_tenant == self._held_by_tenant, "a tenant's blocks are miscounted"
        assert len(set(self._free)) == len(self._free), "a block is free twice"
        assert not seen.intersection(self._free), "a block is held and free"
        assert len(seen) + len(self._free) == self.count, "blocks leaked"
