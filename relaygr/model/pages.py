"""Where K/V lies inside a page, and how it is read and written.

A page holds 128 tokens of all layers: K as [layers, heads, 128, qk_dim], then V as
[layers, heads, 128, v_dim], contiguous. Whoever reads gets views, cut at token_count, so
stale slots cannot leak into a sum.

Shapes: H heads, P pages of the arena, S slots of a page (128), T tokens, K width of a
query or key, V width of a value.

Source: design, section 3 (ranker), invariant I5.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from relaygr.domain.chain import PAGE_TOKENS
from relaygr.model.interface import PageView

LAYOUT = "paged128-khd-vhd"


@dataclass(frozen=True, slots=True)
class CachedKV:
    """K/V of a context at one layer: one view per page, in token order."""

    k_HSK: tuple[Tensor, ...] = ()
    v_HSV: tuple[Tensor, ...] = ()


NOTHING_CACHED = CachedKV()


@dataclass(frozen=True, slots=True)
class PageLayout:
    """The layout of one model's pages."""

    layers: int
    heads: int
    qk_dim: int
    v_dim: int

    @property
    def token_elements(self) -> int:
        """Elements of one token over all layers."""
        return self.layers * self.heads * (self.qk_dim + self.v_dim)

    @property
    def page_elements(self) -> int:
        """Elements of one page."""
        return PAGE_TOKENS * self.token_elements

    def cached(self, view: PageView | None, layer: int) -> CachedKV:
        """The context's K/V at a layer."""
        if view is None or not view.token_count:
            return NOTHING_CACHED
        k_PHSK, v_PHSV = self._layer_views(view.arena, layer)
        whole, rest = divmod(view.token_count, PAGE_TOKENS)
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
        assert first + tokens <= len(view.page_ids) * PAGE_TOKENS, "the pages cannot hold these tokens"
        k_PHSK, v_PHSV = self._layer_views(view.arena, layer)
        done = 0
        while done < tokens:
            index, slot = divmod(first + done, PAGE_TOKENS)
            count = min(PAGE_TOKENS - slot, tokens - done)
            page = view.page_ids[index]
            k_PHSK[page, :, slot : slot + count] = k_HTK[:, done : done + count]
            v_PHSV[page, :, slot : slot + count] = v_HTV[:, done : done + count]
            done += count

    def _layer_views(self, arena: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        assert arena.shape[1] == self.page_elements and arena.stride(1) == 1, "not an arena of this layout"
        k_elements = self.heads * PAGE_TOKENS * self.qk_dim
        v_elements = self.heads * PAGE_TOKENS * self.v_dim
        k_first = arena.storage_offset() + layer * k_elements
        v_first = arena.storage_offset() + self.layers * k_elements + layer * v_elements
        pages, page_stride = arena.shape[0], arena.stride(0)
        k_shape = (pages, self.heads, PAGE_TOKENS, self.qk_dim)
        v_shape = (pages, self.heads, PAGE_TOKENS, self.v_dim)
        k_strides = (page_stride, PAGE_TOKENS * self.qk_dim, self.qk_dim, 1)
        v_strides = (page_stride, PAGE_TOKENS * self.v_dim, self.v_dim, 1)
        return arena.as_strided(k_shape, k_strides, k_first), arena.as_strided(v_shape, v_strides, v_first)
