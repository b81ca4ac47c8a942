"""What the engine asks of a device: an arena, and bytes of pages seen from the host.

Source: design, section 9.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

HostPages = list[npt.NDArray[np.uint8]]


class Device(Protocol):
    """One compute device.

    Page bytes go to and from the DRAM tier through host views. On the CPU a view is the
    arena's own memory; on an accelerator it is pinned staging memory, and `upload` and
    `download` move it.
    """

    torch_device: torch.device

    def allocate(self, pages: int, page_elements: int, dtype: torch.dtype) -> torch.Tensor:
        """The arena, [pages, page_elements], every byte touched."""
        ...

    def host_pages(self, arena: torch.Tensor, page_ids: Sequence[int]) -> HostPages:
        """Writable byte views, one per page, in order."""
        ...

    def upload(self, arena: torch.Tensor, page_ids: Sequence[int], pages: HostPages) -> None:
        """Make written host views visible in the arena; returns when the copy is complete."""
        ...

    def download(self, arena: torch.Tensor, page_ids: Sequence[int]) -> HostPages:
        """Byte views with the arena's present content, complete on return."""
        ...

    def synchronize(self) -> None:
        """Wait for all work queued on the device."""
        ...
