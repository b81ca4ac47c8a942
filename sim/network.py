"""Carries messages between processes: delay, loss, partition, and what a dead or stopped process does with them.

A message to a process that is not there comes back as a failure, as a refused connection does. One that is lost or
meets a partition never arrives: only the sender's own timeout tells. A stopped process (SIGSTOP) takes messages
when it goes on.

Source: design, section 3; invariant I6.
"""

from __future__ import annotations

from collections.abc import Callable
from math import cos, exp, log, sin, sqrt, tau
from typing import Any

from sim.kernel import Kernel
from sim.nodes.process import Process

Handler = Callable[..., None]


class Network:
    """Links by host. Processes of one host reach one another whatever happens to the network.

    Args:
        kernel: the clock.
        delay_ns: median one-way delay between hosts, nanoseconds.
        spread: standard deviation of its logarithm.
        local_ns: one-way delay within a host.
        loss: share of messages that never arrive.
    """

    def __init__(self, kernel: Kernel, *, delay_ns: int, spread: float, local_ns: int, loss: float = 0.0) -> None:
        self._kernel = kernel
        self._delay_ns = delay_ns
        self._spread = spread
        self._local_ns = local_ns
        self._random = kernel.chance("network")
        self._spare: float | None = None
        self._cut_off: set[str] = set()
        self._processes: dict[str, Process] = {}
        self.loss = loss
        self.sent = 0
        self.lost = 0

    def place(self, name: str, process: Process) -> None:
        """A process answers under this name from now on, in place of an earlier one."""
        self._processes[name] = process

    def at(self, name: str) -> Process | None:
        """Who answers under a name."""
        process = self._processes.get(name)
        return process if process is not None and process.is_alive else None

    def cut(self, hosts: set[str]) -> None:
        """Separate these hosts from all others, until `heal`."""
        self._cut_off = hosts

    def heal(self) -> None:
        """All reach all again."""
        self._cut_off = set()

    def can_reach(self, source: Process, target: Process) -> bool:
        """False across a partition."""
        return (source.host in self._cut_off) == (target.host in self._cut_off) or source.host == target.host

    def call(self, source: Process, name: str, handler: str, failed: Handler, *message: Any) -> None:
        """Send a request to whoever answers under a name; `failed(*message)` when nobody does."""
        self.sent += 1
        target = self._processes[name]
        delay_ns = self._delay(source, target)
        if self._is_dropped(source, target):
            return
        self._kernel.at(self._kernel.now_ns + delay_ns, self._arrive, source, target, handler, failed, message)

    def reply(self, source: Process, target: Process, handler: Handler, *message: Any) -> None:
        """Send an answer back to the very process that asked."""
        self.sent += 1
        delay_ns = self._delay(source, target)
        if self._is_dropped(source, target):
            return
        self._kernel.at(self._kernel.now_ns + delay_ns, target.take, handler, message)

    def _arrive(
        self, source: Process, target: Process, handler: str, failed: Handler, message: tuple[Any, ...]
    ) -> None:
        if target.is_alive:
            target.take(getattr(target, handler), message)
        else:
            self._kernel.after(self._delay(source, target), source.take, failed, message)

    def _is_dropped(self, source: Process, target: Process) -> bool:
        is_dropped = source.host != target.host and (
            (bool(self._cut_off) and not self.can_reach(source, target))
            or (self.loss > 0 and self._random.random() < self.loss)
        )
        self.lost += is_dropped
        return is_dropped

    def _delay(self, source: Process, target: Process) -> int:
        if source.host == target.host:
            return self._local_ns
        return int(self._delay_ns * exp(self._spread * self._normal()))

    def _normal(self) -> float:
        """A normal draw, as `Random.gauss` makes it; here, where it is compiled: each message needs one."""
        spare, self._spare = self._spare, None
        if spare is not None:
            return spare
        angle = self._random.random() * tau
        radius = sqrt(-2.0 * log(1.0 - self._random.random()))
        self._spare = sin(angle) * radius
        return cos(angle) * radius
