"""The sum of many instances' loads, kept as it runs: the mean is asked for where nobody should be looked over.

Theory of operation. Between two events of an instance its load is a straight line in time: level, or falling by
one nanosecond a nanosecond while what it reported drains. So the sum is a level less the number that fall times
the time. It changes where a line ends (what was reported has drained, or a promise is forgotten), which a heap
says, and where something happened to an instance, which its owner says. All are whole numbers: the sum is exact.

Source: design, section 3 (router): bounded load.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Line:
    """An instance's load from some time on."""

    start_ns: int
    """Of time zero, if it falls; else of any time."""
    falls: bool
    """By one nanosecond a nanosecond."""
    until_ns: int | None
    """When the line ends; None: when something happens."""


class LoadTotal:
    """The loads of some instances, summed.

    Args:
        instance_ids: whose.
        line_of: an instance's load from a time on.
    """

    def __init__(self, instance_ids: Iterable[str], line_of: Callable[[str, int], Line]) -> None:
        self._line_of = line_of
        self._lines: dict[str, Line] = dict.fromkeys(instance_ids, Line(0, False, None))
        self._changed: set[str] = set(self._lines)
        self._ends: list[tuple[int, str]] = []
        self._start_ns = 0
        self._falling = 0
        self._at_ns: int | None = None

    def change(self, instance_id: str) -> None:
        """Something happened to an instance."""
        self._changed.add(instance_id)

    def at(self, now_ns: int) -> int:
        """The sum at a time. Time that goes back is allowed, and looks everybody over."""
        if self._at_ns is not None and now_ns < self._at_ns:
            self._changed.update(self._lines)
        self._at_ns = now_ns
        while self._ends and self._ends[0][0] <= now_ns:
            self._changed.add(heapq.heappop(self._ends)[1])
        for instance_id in self._changed:
            self._replace(instance_id, now_ns)
        self._changed.clear()
        if len(self._ends) > 2 * len(self._lines) + 16:
            self._ends = [(line.until_ns, each) for each, line in self._lines.items() if line.until_ns is not None]
            heapq.heapify(self._ends)
        return self._start_ns - self._falling * now_ns

    def _replace(self, instance_id: str, now_ns: int) -> None:
        before, line = self._lines[instance_id], self._line_of(instance_id, now_ns)
        self._lines[instance_id] = line
        self._start_ns += line.start_ns - before.start_ns
        self._falling += line.falls - before.falls
        if line.until_ns is not None:
            heapq.heappush(self._ends, (line.until_ns, instance_id))
