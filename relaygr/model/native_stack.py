"""An HSTU model's layers on the native kernel: one call runs all of them, for some milliseconds or until it is asked.

Weights are packed once. A computation takes a plan, the native side's memory, from a pool and
gives it back when it ends, is dropped or fails; so as many exist as were ever interleaved, and
serving allocates nothing. While native code runs, other Python threads do.

A row's result depends on the row and on the keys it sees, in their order, and on nothing else.
A score from cached pages therefore equals the full one to the bit, for any chunks, appends,
micro-batches, neighbours and threads.

Shapes: T new tokens, C candidates, D hidden width.

Source: relaygr/native/src/extend.cpp.
"""

from __future__ import annotations

import ctypes
import time
import weakref
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from relaygr.errors import RelayError
from relaygr.model.config import ModelConfig
from relaygr.model.interface import PageView
from relaygr.model.layer import NORM_EPSILON, HstuLayer
from relaygr.model.native_rows import NativeRows
from relaygr.model.ops.native import LAYER_FIELDS, NativeLayer, NativeModel, NativeSegment, functions, level_of
from relaygr.model.packed import LANES, PackedLayout
from relaygr.native import NativeLibrary

SLICE_NS = 4_000_000
"""How long one step runs before it yields, when nobody asks it to; a unit of work more is the longest that it takes."""

PARTS = ("norm_in", "project_in", "store", "scores", "values", "own", "gate", "project_out")
"""Where time is counted; Clock in engine.h."""

_DTYPES = {"float32": 0, "bfloat16": 1}


class NativeFault(RelayError):
    """The native side could not get memory or threads."""


@dataclass(frozen=True, slots=True)
class Part:
    """One user's share of an extend; see RelayModel.extend."""

    x_TD: Tensor
    self_only: int
    context: PageView | None
    write: PageView | None


@dataclass(frozen=True, slots=True)
class _Packed:
    model: NativeModel
    tensors: list[Tensor]
    """What the model's pointers point to."""


class NativeStack:
    """The layers of one model, packed.

    Args:
        library: the kernels.
        config: the model.
        layout: of its pages.
        layers: its weights; packed at the first extend, and again when they have changed.
        isa: a lower instruction set than the machine's, or ops.native.EMULATED; for tests.
    """

    def __init__(
        self, library: NativeLibrary, config: ModelConfig, layout: PackedLayout, layers: nn.ModuleList, isa: str = ""
    ):
        self._native = functions(library)
        self._layout = layout
        self._layers = layers
        # The modules' own dictionaries: asking the modules for them costs more than a small extend.
        self._held = [module._parameters for module in layers.modules() if module._parameters]
        self._level = level_of(library, isa)
        self.rows = NativeRows(library, self._level)
        """What makes the rows that an extend takes."""
        self._shape = dict(
            layers=config.layers,
            width=config.width,
            heads=config.heads,
            qk=config.qk_dim,
            v=config.v_dim,
            gates_all=config.layer_form == "silu_uvqk",
            dtype=_DTYPES[config.dtype],
            kv_format=layout.is_int8,
            page_tokens=layout.page_tokens,
            scale=config.scale,
            inverse_normaliser=1.0 / config.normaliser,
            epsilon=NORM_EPSILON,
        )
        self.threads: int | None = None
        """Compute threads, torch's number when None."""
        self._width, self._pair = config.width, layout.pair
        self._packed = _Packed(NativeModel(**self._shape), [])
        self._packed_of: tuple[int, ...] = ()
        self._free_plans: list[int] = []
        self._clock = np.zeros(len(PARTS), np.int64)
        self._begun_ticks, self._begun_ns = self._native.rgr_ticks(), time.perf_counter_ns()
        self._finalizer = weakref.finalize(self, _free_all, self._native, self._free_plans)

    @property
    def kernel_name(self) -> str | None:
        """Which kernels serve this model; None when none can."""
        name = self._native.rgr_kernel_name(self._packed.model, self._level)
        return None if name is None else str(name.decode())

    def ask_to_yield(self, is_asking: bool) -> None:
        """Have a running step yield after its unit of work, about 0.1 ms, and each later one, until called with False.

        From any thread, for all stacks of the process, since they share their threads.
        """
        self._native.rgr_ask_to_yield(is_asking)

    @property
    def plan_bytes(self) -> int:
        """Memory of the plans that are not in use."""
        return sum(self._native.rgr_plan_bytes(plan) for plan in self._free_plans)

    def part_ns(self) -> dict[str, int]:
        """Processor time spent by part of a layer since the start, summed over threads."""
        ticks = self._native.rgr_ticks() - self._begun_ticks
        rate = (time.perf_counter_ns() - self._begun_ns) / max(1, ticks)
        return {name: int(spent * rate) for name, spent in zip(PARTS, self._clock, strict=True)}

    def extend(self, parts: Sequence[Part]) -> Generator[None, None, list[Tensor]]:
        """Run the layers over the new rows of one or more users, side by side and without padding.

        Returns each part's candidates' rows, float32 [C, D].

        Raises:
            NativeFault: no memory or no threads.
        """
        # Held until the end: the native side reads these weights in every step.
        weights = self._weights()
        plan = self._free_plans.pop() if self._free_plans else self._native.rgr_plan_new()
        if not plan:
            raise NativeFault("no memory for a native plan")
        try:
            # Pages are read and written until the last step: their tensors must live as long.
            segments = self._begin(plan, weights.model, parts)
            while not (state := self._native.rgr_extend_run(plan, SLICE_NS)):
                yield
            if state < 0:
                raise NativeFault("no memory or no threads for the native kernels")
            self._count(plan)
            rows_CD = torch.empty(sum(part.self_only for part in parts), self._width)
            self._native.rgr_extend_result(plan, rows_CD.data_ptr())
            del segments, weights
        finally:
            self._free_plans.append(plan)
        return list(rows_CD.split([part.self_only for part in parts]))

    def _begin(self, plan: int, model: NativeModel, parts: Sequence[Part]) -> object:
        segments = (NativeSegment * len(parts))()
        kept = []
        row = 0
        for segment, part in zip(segments, parts, strict=True):
            tokens, first = part.x_TD.shape[0], part.context.token_count if part.context else 0
            causal = tokens - part.self_only
            pointers = self._pages(part, first, first + causal)
            segment.row, segment.causal, segment.self_only, segment.first = row, causal, part.self_only, first
            segment.is_write, segment.page_count = part.write is not None, len(pointers)
            segment.pages = pointers.ctypes.data
            kept.append((part, pointers))
            row += tokens
        x_RD = parts[0].x_TD if len(parts) == 1 else torch.cat([part.x_TD for part in parts])
        x_RD = x_RD.contiguous()
        assert x_RD.device.type == "cpu" and x_RD.shape[1] == self._width
        x_dtype = int(x_RD.dtype == torch.bfloat16)
        if not x_dtype:
            x_RD = x_RD.float()
        threads = self.threads or torch.get_num_threads()
        refused = self._native.rgr_extend_begin(
            plan, model, self._level, segments, len(parts), x_RD.data_ptr(), x_dtype, threads
        )
        if refused:
            raise NativeFault(f"an extend of {row} rows was refused, code {refused}")
        return segments, kept

    def _pages(self, part: Part, first: int, end: int) -> np.ndarray:
        """Addresses of the pages: all that are written, or all that are read."""
        view = part.write or part.context
        if view is None:
            return np.empty(0, np.uint64)
        count = -(-(end if part.write else first) // self._layout.page_tokens)
        assert count <= len(view.page_ids), "the pages cannot hold these tokens"
        arena = view.arena
        elements = self._layout.page_tokens * self._layout.token_elements
        assert arena.shape[1] == elements and arena.stride(1) == 1, "not an arena of this layout"
        page_bytes = arena.stride(0) * arena.element_size()
        page_ids = np.array(view.page_ids[:count], np.uint64)
        assert count == 0 or int(page_ids.max()) < arena.shape[0], "a page beyond the arena"
        return arena.data_ptr() + page_ids * np.uint64(page_bytes)

    def _count(self, plan: int) -> None:
        spent = np.empty_like(self._clock)
        self._native.rgr_extend_clock(plan, spent.ctypes.data)
        self._clock += spent

    def _weights(self) -> _Packed:
        """The packed weights; packed anew when they have changed."""
        found = tuple(_version(weight) for weights in self._held for weight in weights.values())
        if found == self._packed_of:
            return self._packed
        native = (NativeLayer * len(self._layers))()
        kept: list[Tensor] = []
        for into, layer in zip(native, self._layers, strict=True):
            tensors = self._packed_layer(layer)
            for name, tensor in zip(LAYER_FIELDS, tensors, strict=True):
                setattr(into, name, tensor.data_ptr())
            kept += tensors
        self._packed, self._packed_of = _Packed(NativeModel(**self._shape, layer=native), kept), found
        return self._packed

    def _packed_layer(self, layer: HstuLayer) -> tuple[Tensor, ...]:
        """In the order of LAYER_FIELDS."""
        with torch.inference_mode():
            return (
                self._panel(layer.project_in.weight),
                layer.project_in.bias.float().contiguous().clone(),
                layer.norm_in.weight.float().clone(),
                layer.norm_in.bias.float().clone(),
                self._panel(layer.project_out.weight),
                layer.project_out.bias.float().clone(),
                layer.norm_av.weight.float().clone(),
                layer.norm_av.bias.float().clone(),
            )

    def _panel(self, weight_NK: Tensor) -> Tensor:
        outputs, inputs = weight_NK.shape
        blocks = weight_NK.reshape(outputs // LANES, LANES, inputs // self._pair, self._pair)
        return blocks.transpose(1, 2).contiguous()


def _version(weight: Tensor) -> int:
    # Inference tensors cannot change and keep no count.
    return hash((weight.data_ptr(), 0 if weight.is_inference() else weight._version))


def _free_all(native: ctypes.CDLL, plans: list[int]) -> None:
    for plan in plans:
        native.rgr_plan_free(plan)
