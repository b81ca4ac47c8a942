"""Virtual time: what happens next, and when. Equal starts give equal runs."""

from __future__ import annotations

import heapq
from collections.abc import Callable

Act = Callable[[], None]


class Timeline:
    """Acts in order of their times; of one time, in the order in which they were given."""

    def __init__(self) -> None:
        self.now_ns = 0
        self._order = 0
        self._acts: list[tuple[int, int, Act]] = []

    def after(self, delay_ns: int, act: Act) -> None:
        """Have something done in so long."""
        self.at(self.now_ns + delay_ns, act)

    def at(self, when_ns: int, act: Act) -> None:
        """Have something done at a time that has not passed."""
        assert when_ns >= self.now_ns, "the past cannot be changed"
        self._order += 1
        heapq.heappush(self._acts, (when_ns, self._order, act))

    def run_until(self, end_ns: int) -> None:
        """Let time pass."""
        while self._acts and self._acts[0][0] <= end_ns:
            self.now_ns, _, act = heapq.heappop(self._acts)
            act()
        self.now_ns = end_ns
