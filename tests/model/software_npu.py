"""A device "npu" in software, to run our own code on a device that is not the CPU.

Tensors of it hold one of the CPU, which does the work, and an operator that is handed tensors
of both is an error, as on hardware. It has no time of its own: nothing here is asynchronous.
Registering a backend cannot be undone, so it lives in a process of its own:

    python -m tests.model.software_npu CHECK     writes what came of it as JSON
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from relaygr.model import checkpoint, conformance
from relaygr.model.hstu import HstuModel
from relaygr.model.loading import load_model
from relaygr.model.ops.npu import PagedAttention
from services.ranker import assembly
from services.ranker.adapters.device.accelerator import AcceleratorDevice
from services.ranker.config import RankerConfig
from tests.model.hstu_paged import MISTAKES, Paged
from tests.model.models import ITEM_IDS, small_model
from tests.unit.ranker.device_recorder import Recorder

NPU = "npu:0"
MAY_MIX = ("aten::copy_", "aten::_to_copy", "aten::index")
"""Copies, and an index that lies on the host, as torch allows everywhere."""


OF_ATTENTION = (
    conformance.relays.check_relay_equals_full,
    conformance.relays.check_append_equals_one_pass,
    conformance.relays.check_truncated_psi,
    conformance.memory.check_stale_slots_are_never_read,
    conformance.shows.check_another_psi_shows,
)
"""What another attention could break; the rest of the suite is about embedding and scoring."""


class NpuTensor(torch.Tensor):
    """A tensor on the device; `raw` is where it really is."""

    raw: torch.Tensor

    @staticmethod
    def __new__(cls, raw: torch.Tensor) -> NpuTensor:
        layout = {"strides": raw.stride(), "storage_offset": raw.storage_offset(), "dtype": raw.dtype, "device": NPU}
        made = torch.Tensor._make_wrapper_subclass(cls, raw.shape, requires_grad=False, **layout)
        made.raw = raw
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), func._schema.name
        given = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, torch.Tensor)]
        if name not in MAY_MIX and any(one.dim() and not isinstance(one, cls) for one in given):
            raise RuntimeError(f"{name} was handed tensors of the host and of the device")
        asked = kwargs.get("device")
        is_to_host = asked is not None and torch.device(asked).type == "cpu"
        if asked is not None:
            kwargs["device"] = torch.device("cpu")
        raw_args, raw_kwargs = tree_map_only(cls, lambda one: one.raw, (args, kwargs))
        done = func(*raw_args, **raw_kwargs)
        if is_to_host:
            return done
        if name.endswith("_"):
            return args[0]
        # Views of tensors that were made outside inference mode are no inference tensors either.
        with torch.inference_mode(False):
            return tree_map_only(torch.Tensor, cls, done)


def register() -> torch.library.Library:
    """Give torch the device; what it makes tensors with, and how it fetches them."""
    _setup_privateuseone_for_python_backend("npu")
    library = torch.library.Library("aten", "IMPL")

    def empty(size: Any, dtype: Any = None, **rest: Any) -> NpuTensor:
        return NpuTensor(torch.empty(size, dtype=dtype))

    def empty_strided(size: Any, stride: Any, dtype: Any = None, **rest: Any) -> NpuTensor:
        return NpuTensor(torch.empty_strided(size, stride, dtype=dtype))

    def copy_from(source: Any, target: Any, non_blocking: bool = False) -> Any:
        getattr(target, "raw", target).copy_(getattr(source, "raw", source))
        return target

    library.impl("empty.memory_format", empty, "PrivateUse1")
    library.impl("empty_strided", empty_strided, "PrivateUse1")
    library.impl("_copy_from", copy_from, "PrivateUse1")
    return library


def saved(directory: Path) -> Path:
    """A small model on disk, of widths that the operator takes."""
    checkpoint.save(small_model(qk_dim=16, v_dim=16, layers=2, heads=1), directory)
    return directory


def operator(mistake: str = "") -> Any:
    """The stand-in of Ascend's operator, on this device."""
    paged = Paged(mistake)
    return paged, lambda **given: NpuTensor(paged(**tree_map_only(NpuTensor, lambda one: one.raw, given)))


def exact(model: Any, checks: Any = conformance.CHECKS) -> dict[str, Any]:
    """The exactness suite, which raises where it does not hold."""
    subject = conformance.Subject(model=model, item_ids=ITEM_IDS)
    for check in checks:
        check(subject, 1)
    return {"device": str(model.device), "kernel": model.kernel, "layout": model.spec.identity.layout}


def with_torch(directory: Path) -> dict[str, Any]:
    """Served by torch's tiles."""
    return exact(load_model(saved(directory), device=NPU))


def with_operator(directory: Path) -> dict[str, Any]:
    """Served by Ascend's operator, once it has been tried on the device."""
    paged, called = operator()
    checkpoint.npu.find_operator = lambda: called
    model = load_model(saved(directory), device=NPU)
    tried = len(paged.calls)
    return {**exact(model, OF_ATTENTION), "tried": tried, "served": len(paged.calls) - tried}


def with_wrong_operator(directory: Path) -> dict[str, Any]:
    """An operator that is wrong is tried, and torch serves."""
    paged, called = operator(MISTAKES[0])
    checkpoint.npu.find_operator = lambda: called
    model = load_model(saved(directory), device=NPU)
    assert isinstance(model, HstuModel) and not isinstance(model.attention, PagedAttention)
    return {"kernel": model.kernel, "tried": len(paged.calls)}


class Unpinned(AcceleratorDevice):
    """There is no pinned memory for a device in software."""

    def _pinned(self, buffers: int, page_elements: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros((buffers, page_elements), dtype=dtype)


def prepared(directory: Path) -> dict[str, Any]:
    """What the ranker does at start, for a device: weights, arena, calibration; then a page there and back."""
    recorder = Recorder()
    assembly.open_accelerator = lambda name: Unpinned(torch.device(name), recorder)
    config = RankerConfig(model=str(saved(directory)), ticket_key=bytes(16), device=NPU, device_budget_bytes=1 << 20)
    model, device, arena, cost = assembly.prepare_device(config)
    staged = device.stage(arena, [1])
    assert staged is not None
    staged.views[0][:] = 7
    device.upload(arena, [1], staged)
    staged.views[0][:] = 0
    device.download(arena, [1], staged)
    back = bool((staged.views[0] == 7).all())
    return {
        "weights": str(model.device),
        "arena": str(arena.device),
        "predicted_ns": cost.extend_ns(128, 0),
        "is_back": back,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    kept = register()
    with tempfile.TemporaryDirectory() as there:
        sys.stdout.write(json.dumps(globals()[sys.argv[1]](Path(there))))
