"""The processor cores of a small machine, on which device threads and everything else compete.

A device that is a thread of the machine's own processor has a core for itself only while the rest of the machine needs
none. What requests cost beside the devices (clients, triggers, routers, event loops, copies) is a backlog of processor
time here. Idle cores work it off; when none is idle, what is left is taken from the running devices in equal parts,
because a thread that was woken goes before one that has been computing for long.

Not in here: caches and memory that cores share, and which thread waits for which.
"""

from __future__ import annotations

from collections.abc import Sequence

from sim.device import Device
from sim.kernel import MS, Kernel

STEP_NS = MS // 2
"""Between two looks; the least time that Linux leaves a thread before another takes its core is about as long."""


class Cores:
    """Cores of one machine.

    Args:
        kernel: the clock.
        devices: the threads that compute.
        count: of cores.
    """

    def __init__(self, kernel: Kernel, devices: Sequence[Device], count: int) -> None:
        self._kernel = kernel
        self._devices = devices
        self._count = count
        self._is_awake = False
        self._wanted_ns: list[int] = []
        """Left of each piece of work."""
        self.taken_ns = 0
        """From devices."""

    @property
    def backlog_ns(self) -> int:
        """Processor time that is wanted and was not had."""
        return sum(self._wanted_ns)

    def want(self, work_ns: int) -> None:
        """Something beside the devices wants to compute, on one core at a time."""
        if work_ns > 0:
            self._wanted_ns.append(work_ns)
        if not self._is_awake:
            self._is_awake = True
            self._kernel.after(0, self._share)

    def _share(self) -> None:
        """Give away the step that begins now."""
        busy = [device for device in self._devices if device.is_running]
        steps_ns = [min(STEP_NS, left_ns) for left_ns in self._wanted_ns[: self._count]]
        served_ns = sum(steps_ns)
        taken_ns = max(0, served_ns - max(0, self._count - len(busy)) * STEP_NS)
        for device in busy:
            device.stall(taken_ns // len(busy))
        left_ns = [left - step for left, step in zip(self._wanted_ns, steps_ns, strict=False)]
        self._wanted_ns = [left for left in left_ns if left] + self._wanted_ns[self._count :]
        self.taken_ns += taken_ns
        self._is_awake = bool(self._wanted_ns)
        if self._is_awake:
            self._kernel.after(STEP_NS, self._share)
