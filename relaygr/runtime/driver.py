"""Runs a machine on the real clock: feed events, perform effects, keep one timer.

Theory of operation. The driver lives on one event loop and is not thread-safe. `feed`
hands an event to the machine and performs the effects in order. An effect that feeds
another event (an answer known at once) does not recurse: the event waits until the
effects before it are performed. After each turn one timer is set for the machine's next
deadline. What raises (an effect, the machine, its check) keeps nothing else from being
done; the first error is raised when the turn is over, since it is a bug.

Source: design, section 8.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, TypeVar

from relaygr.domain.machine import Machine

_log = logging.getLogger(__name__)

Event = TypeVar("Event")
Effect = TypeVar("Effect")
Result = TypeVar("Result")

EVENTS_PER_TURN_MAX = 16_384
"""Events fed from within effects before a turn ends, waiting or handled; more is a machine
that feeds itself for ever."""
REST_S = 0.001
"""Least delay of the timer right after an expiry, so that a machine whose deadline does
not move cannot take the loop for itself."""
CHECK_PAUSE_NS = 1_000_000_000
"""Between two checks of the invariants: a check walks whole tables, and timers may fire a thousand times a second."""


class Driver(Generic[Event, Effect]):
    """One machine, one loop, one timer."""

    def __init__(
        self,
        machine: Machine[Event, Effect],
        perform: Callable[[Effect], None],
        clock: Callable[[], int] = time.monotonic_ns,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._machine = machine
        self._perform = perform
        self._clock = clock
        self._loop = loop or asyncio.get_running_loop()
        self._pending: deque[Event] = deque()
        self._error: Exception | None = None
        self._is_running = False
        self._is_closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns: int | None = None
        self._check_next_ns: int | None = None

    def feed(self, event: Event) -> None:
        """Hand an event to the machine; after `close` it is dropped."""
        if self._is_closed:
            return
        assert len(self._pending) < EVENTS_PER_TURN_MAX, "a machine feeds itself without end"
        self._pending.append(event)
        if not self._is_running:
            self._turn(expire=False)

    def close(self) -> None:
        """Stop the timer and ignore later events; repeatable."""
        self._is_closed = True
        self._pending.clear()
        self._disarm()

    def _turn(self, *, expire: bool) -> None:
        self._is_running = True
        self._error = None
        events = 0
        try:
            if expire:
                self._take(self._machine.expire)
                self._check_now_and_then()
            while self._pending:
                events += 1
                assert events <= EVENTS_PER_TURN_MAX, "a machine feeds itself without end"
                self._take(partial(self._machine.handle, self._pending.popleft()))
        finally:
            self._pending.clear()  # Empty, unless the bound was reached.
            self._is_running = False
            if not self._is_closed:
                self._arm(REST_S if expire else 0.0)
        if self._error is not None:
            raise self._error

    def _check_now_and_then(self) -> None:
        now_ns = self._clock()
        if self._check_next_ns is None or now_ns >= self._check_next_ns:
            self._check_next_ns = now_ns + CHECK_PAUSE_NS
            self._guarded(self._machine.check)

    def _take(self, step: Callable[[int], Sequence[Effect]]) -> None:
        for effect in self._guarded(partial(step, self._clock())) or ():
            self._guarded(partial(self._perform, effect))

    def _guarded(self, call: Callable[[], Result]) -> Result | None:
        try:
            return call()
        except Exception as error:
            if self._error is None:
                self._error = error
            else:
                _log.error("something else failed in the same turn", exc_info=error)
            return None

    def _arm(self, delay_min_s: float) -> None:
        deadline_ns = self._machine.deadline_ns()
        if deadline_ns is None:
            self._disarm()
        elif self._timer is None or deadline_ns != self._timer_ns:
            self._disarm()
            delay_s = max(delay_min_s, (deadline_ns - self._clock()) / 1e9)
            self._timer_ns = deadline_ns
            self._timer = self._loop.call_later(delay_s, self._due)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._timer_ns = None

    def _due(self) -> None:
        self._timer = None
        self._timer_ns = None
        self._turn(expire=True)
