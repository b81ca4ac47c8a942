"""Virtual time: a heap of what is to happen, a running hash of what has, and seeded chance.

Whatever happens at the same instant happens in the order in which it was asked for, so the same
seed gives the same run. The hash takes in when each thing happened and every effect of a core: two runs with the
same hash decided the same.

Source: design, section 8.
"""

from __future__ import annotations

import gc
import heapq
from collections.abc import Callable
from random import Random
from typing import Any

from sim.effects import EffectHash

Action = Callable[..., object]

MS = 1_000_000
SECOND = 1_000_000_000
_BATCH = 1 << 16
"""Numbers of events that are hashed at once."""


def rest_collector() -> None:
    """Let the garbage collector come seldom, for a process that only simulates: a third of the time otherwise.

    What a request leaves behind makes no circles, so that counting references frees it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 20, 20)


class Kernel:
    """One run's clock and agenda.

    `now_ns` is true time; processes see it through their own clocks.
    """

    __slots__ = ("_agenda", "_hash", "_order", "_seed", "events", "now_ns", "on_event")

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._agenda: list[tuple[int, int, Action, tuple[Any, ...]]] = []
        self._order = 0
        self.now_ns = 0
        self.events = 0
        self._hash = EffectHash(seed)
        self.on_event: Callable[[], None] | None = None
        """Called after each event; for checks."""

    def chance(self, purpose: str) -> Random:
        """A generator of its own for each purpose, so that one more draw here changes nothing there."""
        return Random(f"{self._seed}/{purpose}")

    def at(self, when_ns: int, action: Action, *arguments: Any) -> None:
        """Have something happen, now at the earliest."""
        self._order += 1
        heapq.heappush(self._agenda, (max(when_ns, self.now_ns), self._order, action, arguments))

    def after(self, delay_ns: int, action: Action, *arguments: Any) -> None:
        """Have something happen after a while."""
        self.at(self.now_ns + delay_ns, action, *arguments)

    def note(self, effect: object) -> None:
        """Take an effect into the hash, by its whole content."""
        self._hash.note(effect)

    @property
    def digest(self) -> int:
        """The hash of all that happened until now, 64 bits."""
        return self._hash.value()

    def run(self, until_ns: int) -> None:
        """Let everything happen up to a time."""
        agenda, pop, on_event, seen = self._agenda, heapq.heappop, self.on_event, self._hash.events
        while agenda and agenda[0][0] <= until_ns:
            when_ns, order, action, arguments = pop(agenda)
            self.now_ns = when_ns
            self.events += 1
            seen.append(when_ns)
            seen.append(order)
            if len(seen) >= _BATCH:
                self._hash.take_events()
            action(*arguments)
            if on_event is not None:
                on_event()
        self.now_ns = max(self.now_ns, until_ns)
