"""Times at which the machine has work of its own: a heap with lazy deletion.

At most one alarm per name. The heap is rebuilt when more than half of it is stale, so
its size stays within a constant of the number of alarms set.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable


class Alarms:
    """Named times. Due alarms come out by time, then by the order in which they were set."""

    def __init__(self) -> None:
        self._current: dict[Hashable, tuple[int, int]] = {}
        self._heap: list[tuple[int, int, Hashable]] = []
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._current)

    def set(self, name: Hashable, when_ns: int) -> None:
        """Set or move an alarm."""
        known = self._current.get(name)
        if known is not None and known[0] == when_ns:
            return
        self._sequence += 1
        self._current[name] = (when_ns, self._sequence)
        heapq.heappush(self._heap, (when_ns, self._sequence, name))
        if len(self._heap) > 2 * len(self._current) + 64:
            self._heap = [(when, order, name) for name, (when, order) in self._current.items()]
            heapq.heapify(self._heap)

    def clear(self, name: Hashable) -> None:
        """Take an alarm back; it need not be set."""
        self._current.pop(name, None)

    def next_ns(self) -> int | None:
        """The earliest alarm."""
        while self._heap and self._is_stale(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now_ns: int) -> Hashable | None:
        """Take out the earliest alarm that is due."""
        when_ns = self.next_ns()
        if when_ns is None or when_ns > now_ns:
            return None
        name = heapq.heappop(self._heap)[2]
        del self._current[name]
        return name

    def _is_stale(self, item: tuple[int, int, Hashable]) -> bool:
        return self._current.get(item[2]) != (item[0], item[1])
