"""A process: its own clocks, what happens to it while it is stopped, and a machine's timer.

Everything that reaches a process goes through `take`, so that a dead one does nothing any more and a stopped one
does it when it goes on.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, Protocol

from sim.kernel import Kernel

REST_NS = 1_000_000
"""Least delay of a timer right after an expiry, as the driver's."""


class Process:
    """One boot of one process. A restart makes another one."""

    def __init__(self, kernel: Kernel, name: str, host: str, *, offset_ns: int = 0, skew_ns: int = 0) -> None:
        """`offset_ns`: of its monotonic clock from true time; `skew_ns`: of its wall clock."""
        self.kernel = kernel
        self.name = name
        self.host = host
        self.is_alive = True
        self.is_stopped = False
        self._offset_ns = offset_ns
        self._skew_ns = skew_ns
        self._waiting: list[tuple[Callable[..., None], tuple[Any, ...]]] = []

    def clock_ns(self) -> int:
        """Monotonic, from a start of its own."""
        return self.kernel.now_ns + self._offset_ns

    def unix_ns(self) -> int:
        """Wall clock."""
        return self.kernel.now_ns + self._skew_ns

    def step_clock(self, by_ns: int) -> None:
        """The wall clock is set."""
        self._skew_ns += by_ns

    def take(self, handler: Callable[..., None], message: tuple[Any, ...]) -> None:
        """Something reaches the process."""
        if self.is_stopped:
            self._waiting.append((handler, message))
        elif self.is_alive:
            handler(*message)

    def after(self, delay_ns: int, handler: Callable[..., None], *message: Any) -> None:
        """Have a handler called after a while."""
        self.kernel.at(self.kernel.now_ns + delay_ns, self.take, handler, message)

    def at(self, clock_ns: int, handler: Callable[..., None], *message: Any) -> None:
        """Have a handler called at a time of the own clock."""
        self.kernel.at(clock_ns - self._offset_ns, self.take, handler, message)

    def die(self) -> None:
        """SIGKILL."""
        self.is_alive = False
        self._waiting.clear()

    def stop(self) -> None:
        """SIGSTOP."""
        self.is_stopped = True

    def go_on(self) -> None:
        """SIGCONT: what came meanwhile happens now, in order."""
        if not self.is_stopped:
            return
        self.is_stopped = False
        waiting, self._waiting = self._waiting, []
        for handler, message in waiting:
            self.take(handler, message)


class Call(Protocol):
    """Something that is under way."""

    is_over: bool


class Timed(Protocol):
    """What has a deadline of its own."""

    def deadline_ns(self) -> int | None:
        """When `expire` next has work."""
        ...


class Timer:
    """Keeps one event on the agenda for a machine's deadline, as the driver keeps one timer."""

    def __init__(self, process: Process, machine: Timed, expire: Callable[[], None]) -> None:
        self._process = process
        self._machine = machine
        self._expire = expire
        self._armed_ns: int | None = None

    def arm(self, rest_ns: int = 0) -> None:
        """The machine has changed."""
        due_ns = self._machine.deadline_ns()
        if due_ns is not None and (self._armed_ns is None or due_ns < self._armed_ns):
            due_ns = max(due_ns, self._process.clock_ns() + rest_ns)
            self._armed_ns = due_ns
            self._process.at(due_ns, self._ring, due_ns)

    def _ring(self, armed_ns: int) -> None:
        if armed_ns != self._armed_ns:
            return
        self._armed_ns = None
        due_ns = self._machine.deadline_ns()
        if due_ns is not None and due_ns <= self._process.clock_ns():
            self._expire()
        self.arm(REST_NS)


class Deadlines:
    """Calls that are to be looked at later, unless they are over by then; one event on the agenda for all of them."""

    def __init__(self, process: Process, due: Callable[[Any], None]) -> None:
        """`due` is called with each call that is not over at its time."""
        self._process = process
        self._due = due
        self._calls: list[tuple[int, int, Call]] = []
        self._count = 0
        self._armed_ns: int | None = None

    def add(self, at_ns: int, call: Call) -> None:
        """Look at a call at a time of the process's clock."""
        self._count += 1
        heapq.heappush(self._calls, (at_ns, self._count, call))
        self._arm()

    def _arm(self) -> None:
        while self._calls and self._calls[0][2].is_over:
            heapq.heappop(self._calls)
        if self._calls and (self._armed_ns is None or self._calls[0][0] < self._armed_ns):
            self._armed_ns = self._calls[0][0]
            self._process.at(self._armed_ns, self._ring, self._armed_ns)

    def _ring(self, armed_ns: int) -> None:
        if armed_ns != self._armed_ns:
            return
        self._armed_ns = None
        now_ns = self._process.clock_ns()
        while self._calls and (self._calls[0][2].is_over or self._calls[0][0] <= now_ns):
            call = heapq.heappop(self._calls)[2]
            if not call.is_over:
                self._due(call)
        self._arm()
