"""Runs the core's clock: ends what is over, and looks at the locks of silent rankers.

Verbs end what is over for themselves, so the sweep's period decides no answer; it frees
memory nobody asks about, and it is what probes locks.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable

from relaygr.runtime.logs import next_step
from relaygr.segment import LockTable
from services.expander.core.effects import ProbeLock
from services.expander.core.events import LockProbed
from services.expander.core.tiering import Tiering

_log = logging.getLogger(__name__)


class Sweeper:
    """One task. When the core breaks an invariant, the process is told to stop: its supervisor starts a sound one."""

    def __init__(
        self, tiering: Tiering, locks: LockTable, period_s: float, clock: Callable[[], int] = time.monotonic_ns
    ):
        self._tiering = tiering
        self._locks = locks
        self._period_s = period_s
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """End; repeatable."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def sweep(self) -> None:
        """Once."""
        for effect in self._tiering.expire(self._clock()):
            match effect:
                case ProbeLock(owner_index):
                    is_held = self._locks.is_held(owner_index)
                    self._tiering.handle(LockProbed(owner_index, is_held), self._clock())
        self._tiering.check_sums()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._period_s)
            try:
                self.sweep()
            except Exception:
                step = next_step("start the expander again; report it with the traceback")
                _log.exception("the tiering core is broken; stopping", extra=step)
                signal.raise_signal(signal.SIGTERM)
                return
