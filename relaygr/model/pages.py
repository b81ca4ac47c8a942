"""Where K/V lies inside a page, and how it is read and written with torch.

Two layouts, one for each kind of kernel. `PageLayout` (here) is the plain one: K as [layers,
heads, slots, qk_dim], then V as [layers, heads, slots, v_dim]; any torch operator reads it.
`PackedLayout` (packed.py) is what the native kernel reads without packing anything. Whoever
reads with torch gets K/V cut at token_count, so stale slots cannot leak into a sum. The
layout's name is part of psi's identity: bytes of one are never taken for the other's.

Shapes: H heads, P pages of the arena, S slots of a page, T tokens, K width of a query or
key, V width of a value.

Source: design, section 3 (ranker), section 4 (identity), invariant I5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from relaygr.domain.chain import PAGE_TOKENS
from relaygr.model.interface import PageView


@dataclass(frozen=True, slots=True)
class CachedKV:
    """K/V of a context at one layer: consecutive parts, in token order."""

    k_HSK: tuple[Tensor, ...] = ()
    v_HSV: tuple[Tensor, ...] = ()


NOTHING_CACHED = CachedKV()


class Layout(Protocol):
    """How one model's pages are divided."""

    @property
    def name(self) -> str:
        """For psi's identity; different whenever the bytes mean something else."""
        ...

    @property
    def page_tokens(self) -> int:
        """Slots of a page."""
        ...

    @property
    def token_elements(self) -> int:
        """Elements of one token over all layers."""
        ...

    def cached(self, view: PageView | None, layer: int) -> CachedKV:
        """The context's K/V at a layer."""
        ...

    def store(self, view: PageView, layer: int, first: int, k_HTK: Tensor, v_HTV: Tensor) -> None:
        """Write K/V of tokens [first, first + T) at a layer."""
        ...

    def as_kept(self, rows_HTX: Tensor) -> Tensor:
        """Keys or values as they would be read after `store`."""
        ...


@dataclass(frozen=True, slots=True)
class PageLayout:
    """The plain layout of one model's pages."""

    layers: int
    heads: int
    qk_dim: int
    v_dim: int
    page_tokens: int = PAGE_TOKENS

    @property
    def name(self) -> str:
        """For psi's identity."""
        return f"paged{self.page_tokens}-khd-vhd"

    @property
    def token_elements(self) -> int:
        """Elements of one token over all layers."""
        return self.layers * self.heads * (self.qk_dim + self.v_dim)

    @property
    def page_elements(self) -> int:
        """Elements of one page."""
        return self.page_tokens * self.token_elements

    def cached(self, view: PageView | None, layer: int) -> CachedKV:
        """The context's K/V at a layer: one view per page."""
        if view is None or not view.token_count:
            return NOTHING_CACHED
        k_PHSK, v_PHSV = self._layer_views(view.arena, layer)
        whole, rest = divmod(view.token_count, self.page_tokens)
        assert whole + bool(rest) <= len(view.page_ids), "more tokens than the pages hold"
        keys = [k_PHSK[page] for page in view.page_ids[:whole]]
        values = [v_PHSV[page] for page in view.page_ids[:whole]]
        if rest:
            keys.append(k_PHSK[view.page_ids[whole], :, :rest])
            values.append(v_PHSV[view.page_ids[whole], :, :rest])
        return CachedKV(tuple(keys), tuple(values))

    def store(self, view: PageView, layer: int, first: int, k_HTK: Tensor, v_HTV: Tensor) -> None:
        """Write K/V of tokens [first, first + T) at a layer."""
        tokens = k_HTK.shape[1]
        assert first + tokens <= len(view.page_ids) * self.page_tokens, "the pages cannot hold these tokens"
        k_PHSK, v_PHSV = self._layer_views(view.arena, layer)
        done = 0
        while done < tokens:
            index, slot = divmod(first + done, self.page_tokens)
            count = min(self.page_tokens - slot, tokens - done)
            page = view.page_ids[index]
            k_PHSK[page, :, slot : slot + count] = k_HTK[:, done : done + count]
            v_PHSV[page, :, slot : slot + count] = v_HTV[:, done : done + count]
            done += count

    def as_kept(self, rows_HTX: Tensor) -> Tensor:
        """Keys or values as they are: nothing is lost."""
        return rows_HTX

    def _layer_views(self, arena: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        assert arena.shape[1] == self.page_elements and arena.stride(1) == 1, "not an arena of this layout"
        slots = self.page_tokens
        k_elements = self.heads * slots * self.qk_dim
        v_elements = self.heads * slots * self.v_dim
        k_first = arena.storage_offset() + layer * k_elements
        v_first = arena.storage_offset() + self.layers * k_elements + layer * v_elements
        pages, page_stride = arena.shape[0], arena.stride(0)
        k_shape = (pages, self.heads, slots, self.qk_dim)
        v_shape = (pages, self.heads, slots, self.v_dim)
        k_strides = (page_stride, slots * self.qk_dim, self.qk_dim, 1)
        v_strides = (page_stride, slots * self.v_dim, self.v_dim, 1)
        return arena.as_strided(k_shape, k_strides, k_first), arena.as_strided(v_shape, v_strides, v_first)
