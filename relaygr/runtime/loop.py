"""Is the event loop late? A probe, since a blocked loop shows as everybody's latency."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from relaygr.runtime.logs import configure_logging

__all__ = ["LoopLagProbe", "configure_logging"]

PERIOD_S = 0.25
"""A wakeup of an idle loop costs a quarter of a millisecond: twenty a second were half of what an idle service took."""


class LoopLagProbe:
    """Measures by how much a timer is late, again and again.

    Args:
        record: takes each delay in seconds, for example a histogram's `record`.
        period_s: pause between two measurements.
    """

    def __init__(
        self,
        record: Callable[[float], None],
        period_s: float = PERIOD_S,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._record = record
        self._period_s = period_s
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._due_ns = 0
        self._timer: asyncio.TimerHandle | None = None
        self.worst_s = 0.0
        """Largest delay since the start or the last `take_worst_s`."""

    def start(self) -> None:
        """Begin measuring."""
        self.stop()
        self._due_ns = self._clock() + int(self._period_s * 1e9)
        self._timer = self._loop.call_later(self._period_s, self._measure)

    def stop(self) -> None:
        """Stop measuring; repeatable."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def take_worst_s(self) -> float:
        """The largest delay so far, and begin anew."""
        worst_s, self.worst_s = self.worst_s, 0.0
        return worst_s

    def _measure(self) -> None:
        lag_s = max(0, self._clock() - self._due_ns) / 1e9
        self.worst_s = max(self.worst_s, lag_s)
        self._record(lag_s)
        # From now, not from the last due time: after a long block there is one measurement, not a burst.
        self.start()
