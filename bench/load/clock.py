"""Wakes tasks at planned times, to a tenth of a millisecond.

An event loop's own timers are rounded up to whole milliseconds, which would be a fifth of a
short rank's time. The trace is known before it starts, so one thread sleeps from each planned
time to the next and wakes the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Sequence


class Clock:
    """Planned times of one trace, nanoseconds from its start, in order; a context manager.

    Args:
        due_ns: sorted.
        loop: where those who wait run.
        lead_ns: from entering the context to time zero.
    """

    def __init__(self, due_ns: Sequence[int], loop: asyncio.AbstractEventLoop, lead_ns: int = 200_000_000) -> None:
        assert list(due_ns) == sorted(due_ns), "in order"
        self._due_ns = list(due_ns)
        self._loop = loop
        self._wakes = [loop.create_future() for _ in due_ns]
        self._start_ns = time.monotonic_ns() + lead_ns
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="clock", daemon=True)

    def __enter__(self) -> Clock:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_stopped.set()
        self._thread.join()

    async def until(self, place: int) -> None:
        """Wait for the due time at this place."""
        await self._wakes[place]

    def now_ns(self) -> int:
        """Nanoseconds since time zero."""
        return time.monotonic_ns() - self._start_ns

    def _run(self) -> None:
        for place, due_ns in enumerate(self._due_ns):
            while (left_ns := due_ns - self.now_ns()) > 0:
                if self._is_stopped.is_set():
                    return
                # In pieces, so that a trace that is given up ends soon.
                time.sleep(min(left_ns, 100_000_000) / 1e9)
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(_wake, self._wakes[place])


def _wake(wake: asyncio.Future[None]) -> None:
    if not wake.done():
        wake.set_result(None)
