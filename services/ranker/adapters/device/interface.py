"""What the engine asks of a device: an arena, and bytes of pages seen from the host.

`Device` is what the ranker uses; `DeviceModule`, `DeviceStream` and `DeviceEvent` are what an
accelerator uses of torch, and nothing else of a backend may be named: a test holds every
member against the backends' own sources.

Source: design, section 9.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from relaygr.errors import RelayError

HostPages = list[npt.NDArray[np.uint8]]


class DeviceUnavailable(RelayError):
    """The asked device is not usable in this process, or has no room for the arena."""


@dataclass(frozen=True, slots=True)
class Staged:
    """Pages as the host sees them, until they are given back to the device."""

    views: HostPages
    """Writable bytes, one view per page, in order."""
    slots: tuple[int, ...] = ()
    """Staging buffers behind the views; none where a view is the arena itself."""


class Device(Protocol):
    """One compute device.

    Page bytes go to and from the DRAM tier through staged pages. On the CPU these are the
    arena's own memory; on an accelerator they are pinned buffers, of which there are few,
    and `upload` and `download` copy. Both return when the copy is complete, ordered with
    the compute that is queued at the call.
    """

    torch_device: torch.device
    copies_block: bool
    """Whether a copy waits for the device: it is then called on a thread of its own."""

    @property
    def staged_pages_max(self) -> int:
        """Most pages of one copy."""
        ...

    def allocate(self, pages: int, page_elements: int, dtype: torch.dtype, psi_pages_max: int) -> torch.Tensor:
        """The arena, [pages, page_elements], every byte touched, and staging for psi of up to so many pages.

        Raises:
            DeviceUnavailable: the device has no room for it.
        """
        ...

    def bind(self) -> None:
        """Make the calling thread one that computes on this device."""
        ...

    def step_ended(self, is_last: bool) -> None:
        """The computing thread queued a step. Returns when no more than this one is under way; none after the last."""
        ...

    def stage(self, arena: torch.Tensor, page_ids: Sequence[int]) -> Staged | None:
        """Host views for these pages; None while too many buffers are out. Never waits."""
        ...

    def release(self, staged: Staged) -> None:
        """Give staged pages back, once. Nothing may touch the views any more."""
        ...

    def upload(self, arena: torch.Tensor, page_ids: Sequence[int], staged: Staged) -> None:
        """Make written host views visible in the arena."""
        ...

    def download(self, arena: torch.Tensor, page_ids: Sequence[int], staged: Staged) -> None:
        """Fill the host views with the arena's present content."""
        ...

    def synchronize(self) -> None:
        """Wait for all work queued on the device."""
        ...

    def close(self) -> None:
        """Let go of staging; copies have ended."""
        ...


class DeviceEvent(Protocol):
    """A point in a stream's work."""

    def record(self, stream: Any) -> None:
        """After everything queued on the stream so far."""
        ...

    def synchronize(self) -> None:
        """Hold the calling thread until the point is reached."""
        ...


class DeviceStream(Protocol):
    """Work that the device does in order."""

    def wait_event(self, event: Any) -> None:
        """Hold what is queued from now on until the event's point is reached; does not hold the caller."""
        ...


class DeviceModule(Protocol):
    """What is used of `torch.get_device_module(kind)`."""

    def Stream(self, device: torch.device) -> DeviceStream:
        """A stream of its own."""
        ...

    def Event(self) -> DeviceEvent:
        """An event, not recorded yet."""
        ...

    def stream(self, stream: DeviceStream) -> AbstractContextManager[Any]:
        """Work of this thread goes to the stream."""
        ...

    def set_stream(self, stream: DeviceStream) -> None:
        """Work of this thread goes to the stream from now on."""
        ...

    def current_stream(self, device: torch.device) -> DeviceStream:
        """Where this thread's work goes."""
        ...

    def set_device(self, device: torch.device) -> None:
        """This thread's device from now on."""
        ...

    def synchronize(self, device: torch.device) -> None:
        """Wait for all streams of the device."""
        ...

    def mem_get_info(self, device: torch.device) -> tuple[int, int]:
        """Free and total bytes."""
        ...

    def is_available(self) -> bool:
        """Whether there is any such device."""
        ...

    def device_count(self) -> int:
        """How many there are."""
        ...
