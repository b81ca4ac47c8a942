"""CUDA and Ascend NPU, through torch's device-neutral API.

Not run on hardware yet: no accelerator was at hand. What orders the copies runs in tests
against a recorder of happens-before, the names against the backends' sources. torch_npu
is imported when "npu" is asked for and not before.

Source: design, section 9.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import cast

import torch

from services.ranker.adapters.device.interface import DeviceModule, DeviceUnavailable, Staged
from services.ranker.adapters.device.ordering import OrderedCopies, Pace
from services.ranker.adapters.device.staging import StagingPool

STAGED_PSI = 4
"""Staging holds so many psi of the largest size: copies in flight, both directions together."""
WORKSPACE_BYTES = 256 * 1024 * 1024
"""Kept free beside the arena, for what a step computes with."""


def open_accelerator(name: str) -> AcceleratorDevice:
    """The device of that name: "cuda", "npu", or one of several, "cuda:1".

    Raises:
        DeviceUnavailable: the backend is missing or has no such device.
    """
    device = _parsed(name)
    module = _module_of(device.type)
    if not module.is_available():
        raise DeviceUnavailable(f"no {device.type} device is available to torch {torch.__version__}")
    if device.index >= module.device_count():
        raise DeviceUnavailable(f"{name}: there are {module.device_count()} {device.type} devices, counted from 0")
    return AcceleratorDevice(device, module)


class AcceleratorDevice:
    """One accelerator; pages move over pinned buffers, each direction on a stream of its own.

    Args:
        torch_device: with its index.
        module: of its kind, as `torch.get_device_module` gives it.
    """

    copies_block = True

    def __init__(self, torch_device: torch.device, module: DeviceModule):
        self.torch_device = torch_device
        self._module = module
        module.set_device(torch_device)
        # Said once, since "the current stream" is another one on a thread that chose its own.
        self._compute = module.current_stream(torch_device)
        self._up = OrderedCopies(module, torch_device, self._compute, module.Stream(device=torch_device))
        self._down = OrderedCopies(module, torch_device, self._compute, module.Stream(device=torch_device))
        self._pace = Pace(module, self._compute)
        self._pool: StagingPool | None = None

    @property
    def staged_pages_max(self) -> int:
        """Most pages of one copy."""
        return len(self._pool) if self._pool is not None else 0

    def allocate(self, pages: int, page_elements: int, dtype: torch.dtype, psi_pages_max: int) -> torch.Tensor:
        """The arena in device memory, and its staging in the host's."""
        wanted_bytes = pages * page_elements * dtype.itemsize
        free_bytes, total_bytes = self._module.mem_get_info(self.torch_device)
        if wanted_bytes + WORKSPACE_BYTES > free_bytes:
            raise DeviceUnavailable(
                f"device_budget_bytes asks for {wanted_bytes} bytes on {self.torch_device}, where {free_bytes} of "
                f"{total_bytes} are free beside the model and {WORKSPACE_BYTES} are kept to compute with"
            )
        arena = torch.zeros((pages, page_elements), dtype=dtype, device=self.torch_device)
        self._pool = StagingPool(self._pinned(min(pages, STAGED_PSI * psi_pages_max), page_elements, dtype))
        # Zeroed on this thread's stream, used on others from now on.
        self.synchronize()
        return arena

    def bind(self) -> None:
        """Device and stream are kept per thread; all that computes shares one stream."""
        self._module.set_device(self.torch_device)
        self._module.set_stream(self._compute)

    def step_ended(self, is_last: bool) -> None:
        """Hold the computing thread back to one step ahead of the device."""
        self._pace.step_ended(is_last)

    def stage(self, arena: torch.Tensor, page_ids: Sequence[int]) -> Staged | None:
        """Pinned buffers, one view per page."""
        return self._staging.take(len(page_ids))

    def release(self, staged: Staged) -> None:
        """Back to the pool, if it is still there."""
        if self._pool is not None:
            self._pool.give(staged)

    def upload(self, arena: torch.Tensor, page_ids: Sequence[int], staged: Staged) -> None:
        """Host to device."""
        buffers = self._buffers(page_ids, staged)
        self._up.copy((arena[page_id], buffer) for page_id, buffer in buffers)

    def download(self, arena: torch.Tensor, page_ids: Sequence[int], staged: Staged) -> None:
        """Device to host."""
        buffers = self._buffers(page_ids, staged)
        self._down.copy((buffer, arena[page_id]) for page_id, buffer in buffers)

    def synchronize(self) -> None:
        """Wait for all work queued on the device."""
        self._module.synchronize(self.torch_device)

    def close(self) -> None:
        """Let go of the pinned memory, when nothing on the device can touch it any more."""
        self.synchronize()
        self._pool = None

    def _pinned(self, buffers: int, page_elements: int, dtype: torch.dtype) -> torch.Tensor:
        # The CPU stands for an accelerator in tests; there is no pinning for it.
        return torch.zeros((buffers, page_elements), dtype=dtype, pin_memory=self.torch_device.type != "cpu")

    def _buffers(self, page_ids: Sequence[int], staged: Staged) -> list[tuple[int, torch.Tensor]]:
        slots = zip(page_ids, staged.slots, strict=True)
        return [(page_id, self._staging.tensor(slot)) for page_id, slot in slots]

    @property
    def _staging(self) -> StagingPool:
        assert self._pool is not None, "no arena is allocated, or the device is closed"
        return self._pool


def _parsed(name: str) -> torch.device:
    kind, _, index = name.partition(":")
    if kind == "npu":
        # Its import gives torch the name.
        _load_torch_npu()
    return torch.device(kind, int(index or 0))


def _load_torch_npu() -> None:
    try:
        importlib.import_module("torch_npu")
    except (ImportError, OSError, RuntimeError) as error:
        raise DeviceUnavailable(f"torch_npu cannot be loaded: {error}") from error


def _module_of(kind: str) -> DeviceModule:
    return cast(DeviceModule, torch.get_device_module(kind))
