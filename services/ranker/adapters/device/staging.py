"""Pinned host buffers, a fixed number of them, each as large as a page.

Allocated once: pinning memory takes milliseconds and stops the device. Handed out all or
nothing, so that two copies never each wait for what the other holds.

Source: design, section 9, invariants I3, I7.
"""

from __future__ import annotations

import threading

import torch

from services.ranker.adapters.device.interface import Staged


class StagingPool:
    """Buffers of one device; any thread may take and give.

    Args:
        buffers: pinned memory, [buffers, page_elements].
    """

    def __init__(self, buffers: torch.Tensor):
        self._buffers = buffers
        self._bytes = buffers.view(torch.uint8).numpy()
        self._free = list(range(buffers.shape[0]))
        self._taken: set[int] = set()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._buffers.shape[0]

    @property
    def free(self) -> int:
        """Buffers that nobody holds."""
        return len(self._free)

    def take(self, count: int) -> Staged | None:
        """So many buffers, or None while there are not that many free."""
        with self._lock:
            if count > len(self._free):
                return None
            slots = tuple(self._free[len(self._free) - count :])
            del self._free[len(self._free) - count :]
            self._taken.update(slots)
        return Staged([self._bytes[slot] for slot in slots], slots)

    def give(self, staged: Staged) -> None:
        """Take buffers back; each once."""
        with self._lock:
            assert self._taken.issuperset(staged.slots), "staging buffers given back twice"
            self._taken.difference_update(staged.slots)
            self._free.extend(staged.slots)

    def tensor(self, slot: int) -> torch.Tensor:
        """A buffer as the copy sees it."""
        return self._buffers[slot]
