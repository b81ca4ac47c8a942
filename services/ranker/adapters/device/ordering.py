"""In which order copies and compute of one accelerator happen.

Compute has one stream, each direction of copying has its own, and only events order them:

- A copy begins after the compute queued at that moment. An upload so never overtakes
  kernels that still read or write its pages, for example those of a production that was
  cancelled; a download sees what they wrote.
- A copy's thread waits for the copy's own event before it reports. Whoever then queues
  compute on the pages, writes the staging buffers again or reads them, comes after it.
  Compute of other users never waits for a copy.
- The computing thread stays one step ahead of the device, not more: what it queued cannot
  be preempted, and its clock would run ahead of the work it measures.

Each of these waits is needed; tests/unit/ranker/test_device_ordering.py leaves out one
after the other and sees the race.

Source: design, section 9, invariant I5.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from services.ranker.adapters.device.interface import DeviceEvent, DeviceModule, DeviceStream

Pairs = Iterable[tuple[torch.Tensor, torch.Tensor]]
"""Targets and sources."""


class OrderedCopies:
    """Copies of one direction; several threads may copy at a time."""

    def __init__(self, module: DeviceModule, device: torch.device, compute: DeviceStream, copying: DeviceStream):
        self._module = module
        self._device = device
        self._compute = compute
        self._copying = copying

    def copy(self, pairs: Pairs) -> None:
        """Copy and wait for the end of it, also when one of the copies cannot be queued."""
        self._module.set_device(self._device)
        computed = self._module.Event()
        computed.record(self._compute)
        self._copying.wait_event(computed)
        try:
            with self._module.stream(self._copying):
                for target, source in pairs:
                    target.copy_(source, non_blocking=True)
        finally:
            copied = self._module.Event()
            copied.record(self._copying)
            copied.synchronize()


class Pace:
    """Keeps the computing thread one step ahead of the device."""

    def __init__(self, module: DeviceModule, compute: DeviceStream):
        self._module = module
        self._compute = compute
        self._queued: DeviceEvent | None = None

    def step_ended(self, is_last: bool) -> None:
        """Wait for the step before this one; for this one too when it is a job's last."""
        before, self._queued = self._queued, self._module.Event()
        self._queued.record(self._compute)
        if is_last:
            before, self._queued = self._queued, None
        if before is not None:
            before.synchronize()
