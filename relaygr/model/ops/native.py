"""The native kernel: its structures as ctypes, and attention behind the common signature.

A model of ours does not come through `attend`: its whole layers run natively, on pages that are
in the kernel's layout already (relaygr/model/native_stack.py). `attend` serves models of others,
and packs keys and values on each call.

Shapes: H heads, R queries, T new tokens, S cached tokens, K width of a query or key, V width
of a value, E = H * V.

Source: relaygr/native/src/engine.h.
"""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int32, c_int64, c_void_p
from functools import cache

import torch
from torch import Tensor

from relaygr.domain.chain import PAGE_TOKENS
from relaygr.model.interface import PageView
from relaygr.model.packed import ComputeDtype, PackedLayout
from relaygr.model.pages import CachedKV
from relaygr.native import NativeLibrary, load

EMULATED = "amx-emulated"
_EMULATED_LEVEL = 9
_DTYPES = {torch.float32: 0, torch.bfloat16: 1}


LAYER_FIELDS = (
    "w_in",
    "b_in",
    "norm_in_weight",
    "norm_in_bias",
    "w_out",
    "b_out",
    "norm_av_weight",
    "norm_av_bias",
)


class NativeLayer(ctypes.Structure):
    """RgrLayer."""

    _fields_ = tuple((name, c_void_p) for name in LAYER_FIELDS)


class NativeModel(ctypes.Structure):
    """RgrModel."""

    _fields_ = (
        *((name, c_int32) for name in ("layers", "width", "heads", "qk", "v")),
        *((name, c_int32) for name in ("gates_all", "dtype", "kv_format", "page_tokens")),
        *((name, c_float) for name in ("scale", "inverse_normaliser", "epsilon")),
        ("layer", ctypes.POINTER(NativeLayer)),
    )


class NativeSegment(ctypes.Structure):
    """RgrSegment."""

    _fields_ = (
        *((name, c_int32) for name in ("row", "causal", "self_only", "first", "is_write", "page_count")),
        ("pages", c_void_p),
    )


def functions(library: NativeLibrary) -> ctypes.CDLL:
    """The library's functions, with the types of those that the model package calls."""
    return _declared(library.functions)


@cache
def _declared(found: ctypes.CDLL) -> ctypes.CDLL:
    model, plan = ctypes.POINTER(NativeModel), c_void_p
    for name, result, arguments in (
        ("rgr_kernel_name", ctypes.c_char_p, (model, c_int32)),
        ("rgr_head_bytes", c_int64, (model,)),
        ("rgr_plan_new", plan, ()),
        ("rgr_plan_free", None, (plan,)),
        ("rgr_plan_bytes", c_int64, (plan,)),
        (
            "rgr_extend_begin",
            c_int32,
            (plan, model, c_int32, ctypes.POINTER(NativeSegment), c_int32, c_void_p, c_int32, c_int32),
        ),
        ("rgr_extend_run", c_int32, (plan, c_int64)),
        ("rgr_ask_to_yield", None, (c_int32,)),
        ("rgr_extend_result", None, (plan, c_void_p)),
        ("rgr_extend_clock", None, (plan, c_void_p)),
        ("rgr_ticks", c_int64, ()),
        ("rgr_attend", c_int32, (model, c_int32, ctypes.POINTER(NativeSegment), *[c_void_p] * 4)),
    ):
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found


def level_of(library: NativeLibrary, isa: str = "") -> int:
    """The level to ask kernels for: the library's own, or that of a named one.

    EMULATED runs the schedule of AMX with its instructions done in plain code, for tests.
    """
    if isa == EMULATED:
        return _EMULATED_LEVEL
    named = load(library.path, isa) if isa else library
    assert named is not None
    return named.level


def attend(
    q_HRK: Tensor,
    k_HTK: Tensor,
    v_HTV: Tensor,
    cached: CachedKV,
    self_only: int,
    scale: float,
    normaliser: int,
    *,
    isa: str = "",
) -> Tensor:
    """As ops/__init__.py says; float32 or bfloat16 in host memory, widths in multiples of 16.

    Raises:
        ValueError: there is no native kernel for this.
    """
    heads, queries, qk_dim = q_HRK.shape
    tokens, v_dim = k_HTK.shape[1], v_HTV.shape[2]
    causal = tokens - self_only
    own = min(self_only, queries)
    before = sum(part.shape[1] for part in cached.k_HSK)
    dtype = q_HRK.dtype
    model, level = _model_for(heads, qk_dim, v_dim, dtype, scale, normaliser, isa)
    k_HAK = torch.cat([*cached.k_HSK, k_HTK[:, :causal]], dim=1).to(dtype)
    v_HAV = torch.cat([*cached.v_HSV, v_HTV[:, :causal]], dim=1).to(dtype)
    pages = _packed(k_HAK, v_HAV)
    asked = queries - own
    # Rows of queries, then of candidates; each sees the keys up to its own position.
    q_RE = q_HRK.transpose(0, 1).flatten(1).contiguous()
    k_self_RE, v_self_RE = (
        torch.cat([rows.new_zeros(heads, asked, rows.shape[2]), rows[:, tokens - own :]], dim=1)
        .transpose(0, 1)
        .flatten(1)
        .contiguous()
        for rows in (k_HTK, v_HTV)
    )
    pointers = (c_void_p * max(1, len(pages)))(*(page.data_ptr() for page in pages))
    segment = NativeSegment(0, asked, own, before + causal - asked, 0, len(pages), ctypes.addressof(pointers))
    av_RE = torch.empty(queries, heads * v_dim)
    failed = functions(_library()).rgr_attend(
        model, level, segment, q_RE.data_ptr(), k_self_RE.data_ptr(), v_self_RE.data_ptr(), av_RE.data_ptr()
    )
    if failed:
        raise ValueError(f"no native kernel for {heads} heads of {qk_dim} and {v_dim}, {dtype}")
    return av_RE.to(dtype)


def _library() -> NativeLibrary:
    library = load()
    if library is None:
        raise ValueError("the native kernels are not built; `make native` builds them")
    return library


def _model_for(
    heads: int, qk_dim: int, v_dim: int, dtype: torch.dtype, scale: float, normaliser: int, isa: str
) -> tuple[NativeModel, int]:
    if dtype not in _DTYPES:
        raise ValueError(f"no native kernel for {dtype}")
    model = NativeModel(
        layers=1,
        width=heads * v_dim,
        heads=heads,
        qk=qk_dim,
        v=v_dim,
        gates_all=1,
        dtype=_DTYPES[dtype],
        page_tokens=PAGE_TOKENS,
        scale=scale,
        inverse_normaliser=1.0 / normaliser,
    )
    return model, level_of(_library(), isa)


def _packed(k_HAK: Tensor, v_HAV: Tensor) -> Tensor:
    """All keys and values in packed pages, [pages, page_elements]."""
    heads, tokens, qk_dim = k_HAK.shape
    compute: ComputeDtype = "bfloat16" if k_HAK.dtype == torch.bfloat16 else "float32"
    layout = PackedLayout(1, heads, qk_dim, v_HAV.shape[2], compute)
    count = -(-tokens // PAGE_TOKENS)
    arena = k_HAK.new_empty(count, PAGE_TOKENS * layout.token_elements)
    layout.store(PageView(arena, tuple(range(count)), 0), 0, 0, k_HAK, v_HAV)
    return arena
