"""Which kernel serves a model, and how its pages are divided for it.

    auto       native where it can serve, else torch
    native     C++ (x86-64 with AVX2 or better, widths in multiples of 16)
    torch      tiles of torch operators: every device, every width
    reference  the dense oracle

On the CPU pages are packed for the native kernel whenever the widths allow it, whatever kernel
serves: so a machine without a compiler and one with AMX understand each other's psi. On an
accelerator, and for other widths, they are plain.

Source: docs/decisions/0006-pages-in-the-kernels-layout.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from relaygr.domain.chain import PAGE_TOKENS
from relaygr.model.config import ModelConfig
from relaygr.model.native_stack import NativeStack
from relaygr.model.ops import ATTENTIONS, Attention
from relaygr.model.packed import LANES, PackedLayout
from relaygr.model.pages import Layout, PageLayout
from relaygr.native import load

KernelName = Literal["auto", "native", "torch", "reference"]
KvDtype = Literal["", "int8"]

KERNELS = ("auto", "native", "torch", "reference")
KV_DTYPES = ("", "int8")


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a model computes with."""

    name: str
    layout: Layout
    attention: Attention
    """Serves where there is no stack."""
    stack: NativeStack | None


def choose(
    config: ModelConfig,
    layers: nn.ModuleList,
    *,
    kernel: KernelName,
    kv_dtype: KvDtype,
    device: str,
    isa: str = "",
    page_tokens: int = PAGE_TOKENS,
) -> Chosen:
    """The kernel and the layout.

    Raises:
        ValueError: the kernel that was asked for cannot serve, or the pages cannot hold kv_dtype.
    """
    if kernel not in KERNELS or kv_dtype not in KV_DTYPES:
        raise ValueError(f"kernel must be one of {KERNELS}, kv_dtype one of {KV_DTYPES}")
    layout = _layout(config, kv_dtype, device, page_tokens)
    stack, reason = None, "not asked for"
    if kernel in ("auto", "native"):
        stack, reason = _stack(config, layers, layout, isa)
    if stack is not None:
        return Chosen(f"native/{stack.kernel_name}", layout, ATTENTIONS["torch"], stack)
    if kernel == "native":
        raise ValueError(f"kernel native cannot serve {config.name}: {reason}; kernel auto serves with torch")
    name = "torch" if kernel == "auto" else kernel
    return Chosen(name, layout, ATTENTIONS[name], None)


def _layout(config: ModelConfig, kv_dtype: KvDtype, device: str, page_tokens: int) -> Layout:
    is_int8 = kv_dtype == "int8"
    widths = (config.layers, config.heads, config.qk_dim, config.v_dim)
    if device == "cpu" and PackedLayout.fits(config.qk_dim, config.v_dim, page_tokens):
        return PackedLayout(*widths, config.dtype, is_int8, page_tokens)
    if is_int8:
        raise ValueError(f"int8 pages need a CPU and head widths in multiples of {LANES}")
    return PageLayout(*widths, page_tokens)


def _stack(config: ModelConfig, layers: nn.ModuleList, layout: Layout, isa: str) -> tuple[NativeStack | None, str]:
    """The native stack, or why there is none."""
    if not isinstance(layout, PackedLayout):
        return None, f"it needs a CPU and head widths in multiples of {LANES}"
    library = load()
    if library is None:
        return None, "it is not built (`make native` builds it)"
    stack = NativeStack(library, config, layout, layers, isa)
    if stack.kernel_name is None:
        return None, f"no kernel for {library.isa} and hidden width {config.width}"
    return stack, ""
