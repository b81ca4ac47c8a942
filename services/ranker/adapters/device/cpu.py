"""The CPU as a device: a budgeted arena in ordinary memory.

Source: design, section 9, invariant I3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from services.ranker.adapters.device.interface import HostPages


class CpuDevice:
    """Host views are the arena itself, so nothing is copied twice."""

    torch_device = torch.device("cpu")

    def allocate(self, pages: int, page_elements: int, dtype: torch.dtype) -> torch.Tensor:
        """The arena; zeros, so that every page is faulted in before the first request."""
        return torch.zeros((pages, page_elements), dtype=dtype)

    def host_pages(self, arena: torch.Tensor, page_ids: Sequence[int]) -> HostPages:
        """Views of the arena's own bytes."""
        flat = arena.view(torch.uint8)
        return [flat[page_id].numpy() for page_id in page_ids]

    def upload(self, arena: torch.Tensor, page_ids: Sequence[int], pages: HostPages) -> None:
        """Nothing to do: the views were the arena."""

    def download(self, arena: torch.Tensor, page_ids: Sequence[int]) -> HostPages:
        """Views of the arena's own bytes; the caller holds the pages while it reads."""
        return self.host_pages(arena, page_ids)

    def synchronize(self) -> None:
        """Nothing to do: CPU work is complete when its call returns."""
