"""Which psi to give up when space is needed. Policy only: who may be evicted is decided elsewhere."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Idle:
    """What is known of an entry that nothing holds any more."""

    pages: int
    rebuild_ns: int
    """To have it back: a reload of what DRAM holds and an append of the rest, or all of it from nothing."""
    uses: int
    """Ranks that it served."""


class EvictionPolicy(Protocol):
    """Told which entries nothing holds; orders them from the first to go to the last."""

    def add(self, entry_id: int, idle: Idle) -> None:
        """An entry came to be held by nothing."""
        ...

    def remove(self, entry_id: int) -> None:
        """An entry is held again, or gone."""
        ...

    def evicted(self, entry_id: int) -> None:
        """An entry goes because space is needed; `remove` follows."""
        ...

    def victims(self) -> Iterator[int]:
        """Entry ids, first to go first. Not changed while it is iterated."""
        ...


class LeastRecentlyHeld:
    """Evicts what was let go longest ago."""

    def __init__(self) -> None:
        self._idle: dict[int, None] = {}

    def add(self, entry_id: int, idle: Idle) -> None:
        """Append: it was held until now."""
        assert entry_id not in self._idle
        self._idle[entry_id] = None

    def remove(self, entry_id: int) -> None:
        """Take out."""
        del self._idle[entry_id]

    def evicted(self, entry_id: int) -> None:
        """Nothing to learn."""

    def victims(self) -> Iterator[int]:
        """In the order of being let go."""
        return iter(self._idle)


USES_COUNTED = 2
"""Ranks up to which psi gains worth. What counts is that its user came back: on recorded traffic, counting more keeps
psi of users who have gone, and avoids 0.07 less of the recomputing at the largest budget."""


class LeastWorth:
    """Evicts what saves least per page, where worth that is not used fades: GreedyDual-Size with frequency.

    An entry's worth is the device time that a page of it saves, twice that once its user has come back, on top of the
    worth of what was evicted last; so what is never used again sinks below whatever comes later, however dear it was.

    Source: Cao and Irani, "Cost-aware WWW proxy caching algorithms", 1997; Cherkasova, "Improving WWW proxies
    performance with greedy-dual-size-frequency caching policy", 1998.
    """

    def __init__(self) -> None:
        self._worth: dict[int, tuple[float, int]] = {}
        """Worth, and the order of being let go among equals."""
        self._heap: list[tuple[float, int, int]] = []
        """The same and the entry; also of entries that are gone, which are passed over."""
        self._floor = 0.0
        self._added = 0

    def add(self, entry_id: int, idle: Idle) -> None:
        """Weigh it as it is now."""
        assert entry_id not in self._worth
        self._added += 1
        worth = self._floor + min(max(1, idle.uses), USES_COUNTED) * idle.rebuild_ns / max(1, idle.pages)
        self._worth[entry_id] = worth, self._added
        heapq.heappush(self._heap, (worth, self._added, entry_id))

    def remove(self, entry_id: int) -> None:
        """Take out; when most of the heap is gone entries, make it anew."""
        del self._worth[entry_id]
        if len(self._heap) > 2 * len(self._worth) + 64:
            self._heap = [(*place, entry_id) for entry_id, place in self._worth.items()]
            heapq.heapify(self._heap)

    def evicted(self, entry_id: int) -> None:
        """Everything later has to be worth more than this one was."""
        self._floor = max(self._floor, self._worth[entry_id][0])

    def victims(self) -> Iterator[int]:
        """The least worth first."""
        while self._heap and self._worth.get(self._heap[0][2]) != self._heap[0][:2]:
            heapq.heappop(self._heap)
        if not self._heap:
            return
        first = self._heap[0][2]
        yield first
        yield from (entry_id for entry_id in sorted(self._worth, key=self._worth.__getitem__) if entry_id != first)


POLICIES: dict[str, type[EvictionPolicy]] = {"recency": LeastRecentlyHeld, "worth": LeastWorth}
