"""CUDA and Ascend NPU, through torch's device-neutral API.

Not run anywhere yet: no accelerator was at hand. The README lists it as untested. Only
names that both backends have are used; torch_npu is imported when "npu" is asked for.

Source: design, section 9.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import torch

from relaygr.errors import RelayError
from services.ranker.adapters.device.interface import HostPages


class DeviceUnavailable(RelayError):
    """The asked device is not usable in this process."""


class AcceleratorDevice:
    """One accelerator; pages move over pinned host memory on a stream of their own."""

    def __init__(self, kind: str, index: int = 0):
        """Open the device.

        Raises:
            DeviceUnavailable: the backend is missing or has no such device.
        """
        if kind == "npu":
            try:
                importlib.import_module("torch_npu")
            except (ImportError, OSError, RuntimeError) as error:
                raise DeviceUnavailable(f"torch_npu cannot be loaded: {error}") from error
        if not torch.accelerator.is_available() or torch.accelerator.current_accelerator().type != kind:
            raise DeviceUnavailable(f"no {kind} device is available to torch {torch.__version__}")
        self.torch_device = torch.device(kind, index)
        self._module = torch.get_device_module(kind)
        self._copy_stream = self._module.Stream(device=self.torch_device)

    def allocate(self, pages: int, page_elements: int, dtype: torch.dtype) -> torch.Tensor:
        """The arena in device memory."""
        return torch.zeros((pages, page_elements), dtype=dtype, device=self.torch_device)

    def host_pages(self, arena: torch.Tensor, page_ids: Sequence[int]) -> HostPages:
        """Pinned staging memory, one view per page."""
        staging = torch.empty((len(page_ids), arena.shape[1]), dtype=arena.dtype, pin_memory=True)
        return list(staging.view(torch.uint8).numpy())

    def upload(self, arena: torch.Tensor, page_ids: Sequence[int], pages: HostPages) -> None:
        """Host to device, on the copy stream; compute never sees a page before its copy is complete.

        Ordered after the compute queued so far: a cancelled production may have kernels
        under way that still write the pages.
        """
        self._copy_stream.wait_stream(self._module.current_stream(self.torch_device))
        with self._module.stream(self._copy_stream):
            for page_id, page in zip(page_ids, pages, strict=True):
                source = torch.from_numpy(page).view(arena.dtype)
                arena[page_id].copy_(source, non_blocking=True)
        self._copy_stream.synchronize()

    def download(self, arena: torch.Tensor, page_ids: Sequence[int]) -> HostPages:
        """Device to host; ordered after the compute that wrote the pages."""
        pages = self.host_pages(arena, page_ids)
        self._copy_stream.wait_stream(self._module.current_stream(self.torch_device))
        with self._module.stream(self._copy_stream):
            for page_id, page in zip(page_ids, pages, strict=True):
                torch.from_numpy(page).view(arena.dtype).copy_(arena[page_id], non_blocking=True)
        self._copy_stream.synchronize()
        return pages

    def synchronize(self) -> None:
        """Wait for all work queued on the device."""
        torch.accelerator.synchronize(self.torch_device)
