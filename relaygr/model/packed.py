"""The page layout that the native kernel reads: operands of its products, nothing to pack on the way.

For each layer and head: a panel of keys, a panel of values, and for int8 the float32 scales of
the keys, then of the values. A panel is [n / 16][k / pair][16][pair]: sixteen outputs side by
side, so that one vector register takes a step of k for all of them; pair is 2 where products
are of bfloat16. Keys have n = slot and k = qk_dim, values n = column and k = slot. Value slots
behind the last token, to the next multiple of 32, are zero, because steps of k are whole.

int8 keeps one scale per key and per value, not per page: what an appended token writes then
never depends on its neighbours, pages that others lease stay as they are, and a cached score
stays equal to a full one however the prefix was cut.

Shapes: H heads, P pages, S slots of a page, T tokens, B blocks of 16, L lanes (16), G steps of
k, R elements of a step (pair), K width of a query or key, V width of a value.

Source: relaygr/native/src/engine.h; docs/decisions/0006-pages-in-the-kernels-layout.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from relaygr.domain.chain import PAGE_TOKENS
from relaygr.model.interface import TORCH_DTYPES, PageView
from relaygr.model.pages import NOTHING_CACHED, CachedKV

LANES = 16
GROUP_SLOTS = 32
"""Value slots that are read together."""
SCALE_BYTES = 4
PART_TOKENS = 512
"""Tokens of one part of what is unpacked, as torch takes them at once."""

ComputeDtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class PackedLayout:
    """The packed layout of one model's pages.

    Raises:
        ValueError: a width is not a multiple of 16, or the page not one of 128.
    """

    layers: int
    heads: int
    qk_dim: int
    v_dim: int
    compute_dtype: ComputeDtype
    is_int8: bool = False
    page_tokens: int = PAGE_TOKENS

    def __post_init__(self) -> None:
        """Refuse what no kernel reads."""
        if not self.fits(self.qk_dim, self.v_dim, self.page_tokens):
            raise ValueError(f"packed pages need widths in 16s, have {self.qk_dim} and {self.v_dim}")

    @staticmethod
    def fits(qk_dim: int, v_dim: int, page_tokens: int = PAGE_TOKENS) -> bool:
        """Whether pages of these widths can be packed."""
        return qk_dim % LANES == 0 and v_dim % LANES == 0 and page_tokens % 128 == 0

    @property
    def pair(self) -> int:
        """Elements of a step of k."""
        return 2 if self.compute_dtype == "bfloat16" else 1

    @property
    def _compute(self) -> torch.dtype:
        return TORCH_DTYPES[self.compute_dtype]

    @property
    def name(self) -> str:
        """For psi's identity."""
        return f"packed{self.page_tokens}-{LANES}x{self.pair}" + ("-int8" if self.is_int8 else "")

    @property
    def token_elements(self) -> int:
        """Elements of one token over all layers; for int8 its scales count as bytes."""
        scales = 2 * SCALE_BYTES if self.is_int8 else 0
        return self.layers * self.heads * (self.qk_dim + self.v_dim + scales)

    @property
    def head_elements(self) -> int:
        """Elements of one layer and head in a page."""
        return self.page_tokens * self.token_elements // (self.layers * self.heads)

    def cached(self, view: PageView | None, layer: int) -> CachedKV:
        """The context's K/V at a layer, unpacked; int8 in the dtype of the products."""
        if view is None or not view.token_count:
            return NOTHING_CACHED
        count = view.token_count
        used = -(-count // self.page_tokens)
        assert used <= len(view.page_ids), "more tokens than the pages hold"
        pages = torch.tensor(view.page_ids[:used], device=view.arena.device)
        k_PHBLGR, v_PHBLGR = self._panels(view.arena, layer)
        k_HTK = k_PHBLGR[pages].transpose(0, 1).reshape(self.heads, -1, self.qk_dim)[:, :count]
        v_HTV = v_PHBLGR[pages].permute(1, 0, 4, 5, 2, 3).reshape(self.heads, -1, self.v_dim)[:, :count]
        if self.is_int8:
            scales_HT2 = self._scales(view.arena, layer)[pages].permute(1, 0, 3, 2).reshape(self.heads, -1, 2)
            k_HTK = (k_HTK.float() * scales_HT2[:, :count, :1]).to(self._compute)
            v_HTV = (v_HTV.float() * scales_HT2[:, :count, 1:]).to(self._compute)
        return CachedKV(k_HTK.split(PART_TOKENS, dim=1), v_HTV.split(PART_TOKENS, dim=1))

    def store(self, view: PageView, layer: int, first: int, k_HTK: Tensor, v_HTV: Tensor) -> None:
        """Write K/V of tokens [first, first + T) at a layer."""
        tokens = k_HTK.shape[1]
        assert first + tokens <= len(view.page_ids) * self.page_tokens, "the pages cannot hold these tokens"
        if not tokens:
            return
        pages, slots = self._places(view, first, first + tokens)
        k_PHBLGR, v_PHBLGR = self._panels(view.arena, layer)
        if self.is_int8:
            k_HTK, k_scales_HT = quantised(k_HTK)
            v_HTV, v_scales_HT = quantised(v_HTV)
            scales_PH2S = self._scales(view.arena, layer)
            scales_PH2S[pages, :, 0, slots] = k_scales_HT.T
            scales_PH2S[pages, :, 1, slots] = v_scales_HT.T
        k_THGR = k_HTK.transpose(0, 1).unflatten(2, (-1, self.pair))
        k_PHBLGR[pages, :, slots // LANES, slots % LANES] = k_THGR
        v_THBL = v_HTV.transpose(0, 1).unflatten(2, (-1, LANES))
        v_PHBLGR[pages, :, :, :, slots // self.pair, slots % self.pair] = v_THBL
        end = first + tokens
        if end % GROUP_SLOTS:
            pages, slots = self._places(view, end, end + GROUP_SLOTS - end % GROUP_SLOTS)
            v_PHBLGR[pages, :, :, :, slots // self.pair, slots % self.pair] = 0

    def as_kept(self, rows_HTX: Tensor) -> Tensor:
        """Keys or values as they will be read again: int8 has lost something, which full inference must lose too."""
        if not self.is_int8:
            return rows_HTX
        small_HTX, scales_HT = quantised(rows_HTX)
        return (small_HTX.float() * scales_HT[..., None]).to(rows_HTX.dtype)

    def _places(self, view: PageView, first: int, end: int) -> tuple[Tensor, Tensor]:
        positions = torch.arange(first, end, device=view.arena.device)
        pages = torch.tensor(view.page_ids, device=view.arena.device)
        return pages[positions // self.page_tokens], positions % self.page_tokens

    def _panels(self, arena: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Keys [P, H, B, L, G, R] by slot (B, L) and column (G, R); values [P, H, B, L, G, R] the other way round."""
        self._check(arena)
        first = arena.storage_offset() + layer * self.heads * self.head_elements
        outer = (arena.stride(0), self.head_elements)
        slots, pair = self.page_tokens, self.pair
        inner = (pair, LANES * pair, 1)
        k_shape = (arena.shape[0], self.heads, slots // LANES, LANES, self.qk_dim // pair, pair)
        v_shape = (arena.shape[0], self.heads, self.v_dim // LANES, LANES, slots // pair, pair)
        keys = arena.as_strided(k_shape, (*outer, LANES * self.qk_dim, *inner), first)
        values = arena.as_strided(v_shape, (*outer, LANES * slots, *inner), first + slots * self.qk_dim)
        return keys, values

    def _scales(self, arena: Tensor, layer: int) -> Tensor:
        """[P, H, 2, S], float32: of keys and of values."""
        self._check(arena)
        floats = arena.view(torch.float32)
        first = layer * self.heads * self.head_elements + self.page_tokens * (self.qk_dim + self.v_dim)
        return floats.as_strided(
            (arena.shape[0], self.heads, 2, self.page_tokens),
            (floats.stride(0), self.head_elements // SCALE_BYTES, self.page_tokens, 1),
            floats.storage_offset() + first // SCALE_BYTES,
        )

    def _check(self, arena: Tensor) -> None:
        elements = self.page_tokens * self.token_elements
        assert arena.shape[1] == elements and arena.stride(1) == 1, "not an arena of this layout"


def quantised(rows_HTX: Tensor) -> tuple[Tensor, Tensor]:
    """int8 rows and their scales [H, T]: row = scale * int8, the largest element at 127."""
    wide = rows_HTX.float()
    bounds_HT1 = wide.abs().amax(dim=-1, keepdim=True)
    factors = torch.where(bounds_HT1 > 0, 127.0 / bounds_HT1, 0.0)
    return torch.round(wide * factors).clamp(-128, 127).to(torch.int8), bounds_HT1.squeeze(-1) / 127.0
