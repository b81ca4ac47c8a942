"""The CPU as a device: a budgeted arena in ordinary memory.

Source: design, section 9, invariant I3.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch

from services.ranker.adapters.device.interface import Staged


class CpuDevice:
    """Host views are the arena itself, so nothing is copied twice and nothing waits."""

    torch_device = torch.device("cpu")
    copies_block = False
    staged_pages_max = sys.maxsize

    def allocate(self, pages: int, page_elements: int, dtype: torch.dtype, psi_pages_max: int) -> torch.Tensor:
        """The arena; zeros, so that every page is faulted in before the first request."""
        return torch.zeros((pages, page_elements), dtype=dtype)

    def bind(self) -> None:
        """Nothing to do: any thread computes on the CPU."""

    def step_ended(self, is_last: bool) -> None:
        """Nothing to do: CPU work is complete when its call returns."""

    def stage(self, arena: torch.Tensor, page_ids: Sequence[int]) -> Staged:
        """Views of the arena's own bytes; the caller holds the pages while it uses them."""
        flat = arena.view(torch.uint8)
        return Staged([flat[page_id].numpy() for page_id in page_ids])

    def release(self, staged: Staged) -> None:
        """Nothing to do."""

    def upload(self, arena: torch.Tensor, page_ids: Sequence[int], staged: Staged) -> None:
        """Nothing to do: the views are the arena."""

    def download(self, arena: torch.Tensor, page_ids: Sequence[int], staged: Staged) -> None:
        """Nothing to do: the views are the arena."""

    def synchronize(self) -> None:
        """Nothing to do: CPU work is complete when its call returns."""

    def close(self) -> None:
        """Nothing to do."""
