"""Attention and row-wise work in slices, with a place to be preempted after each.

Tiles of keys outside, blocks of queries inside: a tile is widened to the dtype of the sums
once, and no slice does more than one tile against one block. A block sees a tile as far as
some of its rows may, and masks only its diagonal. Candidates' view of themselves is added
apart, as an elementwise dot. Sums are float32 at least, also over bfloat16 pages.

Shapes: H heads, R queries, T new tokens, S keys of a tile, B rows of a block, K width of a
query or key, V width of a value, E = H * V.

Source: design, section 3 (ranker).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from relaygr.model.pages import CachedKV

BLOCK_ROWS = 128
"""Queries of a block. One thread, 1024 causal tokens, 4 heads of 64: 64 rows 6.7 ms, 128 rows 6.8, 256 rows 8.5."""

TILE_KEYS = 512
"""Keys of a tile: four pages. One block against one tile is what nothing can preempt."""

SLICE_ROWS = 256
"""Rows of a slice of projections."""

Slices = Generator[None, None, Tensor]


def attend(
    q_HRK: Tensor,
    k_HTK: Tensor,
    v_HTV: Tensor,
    cached: CachedKV,
    self_only: int,
    scale: float,
    normaliser: int,
) -> Slices:
    """As ops/__init__.py says; yields after each block of queries against a tile of keys."""
    sums = torch.promote_types(q_HRK.dtype, torch.float32)
    queries, tokens = q_HRK.shape[1], k_HTK.shape[1]
    causal, skipped = tokens - self_only, tokens - queries
    before = sum(page.shape[1] for page in cached.k_HSK)
    tril_BB = torch.ones(BLOCK_ROWS, BLOCK_ROWS, dtype=sums, device=q_HRK.device).tril()
    blocks = [_Block.of(q_HRK, v_HTV, first, sums, scale) for first in range(0, queries, BLOCK_ROWS)]
    begin = 0
    for k_HSK, v_HSV in _tiles(k_HTK[:, :causal], v_HTV[:, :causal], cached):
        k_HSK, v_HSV = k_HSK.to(sums), v_HSV.to(sums)
        for block in blocks:
            # Rows of this block that are causal see a triangle that begins at key `diagonal`.
            diagonal = before + min(skipped + block.first, causal) - begin
            triangle = before + min(skipped + block.end, causal) - begin - diagonal
            keys = min(diagonal + triangle, k_HSK.shape[1])
            if keys > 0:
                mask_BB = tril_BB[:triangle, max(diagonal, 0) - diagonal : max(keys - diagonal, 0)]
                block.add(k_HSK[:, :keys], v_HSV[:, :keys], mask_BB)
                yield
        begin += k_HSK.shape[1]
    rows = [q_HRK.new_empty(0, v_HTV.shape[0] * v_HTV.shape[2])]
    for block in blocks:
        own = max(causal - skipped, block.first)
        if own < block.end:
            seen = slice(skipped + own, skipped + block.end)
            block.add_own(own - block.first, k_HTK[:, seen], v_HTV[:, seen])
        rows.append(block.av_HBV.div_(normaliser).transpose(0, 1).flatten(1).to(k_HTK.dtype))
    return torch.cat(rows)


def by_rows(work: Callable[..., Any], *rows: Tensor) -> Generator[None, None, Any]:
    """Row-wise work on [..., T, D], slice by slice; its result, or results, as if done at once."""
    count = rows[0].shape[-2]
    if count <= SLICE_ROWS:
        made = work(*rows)
        yield
        return made
    parts = []
    for first in range(0, count, SLICE_ROWS):
        parts.append(work(*(each[..., first : first + SLICE_ROWS, :] for each in rows)))
        yield
    if isinstance(parts[0], Tensor):
        return torch.cat(parts, dim=-2)
    whole = []
    for same in zip(*parts, strict=True):
        whole.append(torch.cat(same, dim=-2))
        yield
    return type(parts[0])(*whole)


def _tiles(k_HTK: Tensor, v_HTV: Tensor, cached: CachedKV) -> Iterator[tuple[Tensor, Tensor]]:
    """Keys and values in token order: pages together, up to a tile; then the new causal tokens."""
    keys: list[Tensor] = []
    values: list[Tensor] = []
    held = 0
    for k_HSK, v_HSV in zip(cached.k_HSK, cached.v_HSV, strict=True):
        if keys and held + k_HSK.shape[1] > TILE_KEYS:
            yield torch.cat(keys, dim=1), torch.cat(values, dim=1)
            keys, values, held = [], [], 0
        keys.append(k_HSK)
        values.append(v_HSV)
        held += k_HSK.shape[1]
    if keys:
        yield torch.cat(keys, dim=1), torch.cat(values, dim=1)
    for first in range(0, k_HTK.shape[1], TILE_KEYS):
        yield k_HTK[:, first : first + TILE_KEYS], v_HTV[:, first : first + TILE_KEYS]


@dataclass(slots=True)
class _Block:
    """Some queries, widened, and what they have gathered."""

    first: int
    end: int
    q_HBK: Tensor
    av_HBV: Tensor

    @classmethod
    def of(cls, q_HRK: Tensor, v_HTV: Tensor, first: int, sums: torch.dtype, scale: float) -> _Block:
        q_HBK = q_HRK[:, first : first + BLOCK_ROWS].to(sums) * scale
        heads, rows = q_HBK.shape[:2]
        return cls(first, first + rows, q_HBK, q_HBK.new_zeros(heads, rows, v_HTV.shape[2]))

    def add(self, k_HSK: Tensor, v_HSV: Tensor, mask_BB: Tensor) -> None:
        """One tile's share; the mask is for the last keys and the first rows, the rest is seen."""
        scores_HBS = F.silu(torch.bmm(self.q_HBK, k_HSK.transpose(1, 2)), inplace=True)
        rows, masked = mask_BB.shape
        if rows and masked:
            scores_HBS[:, :rows, scores_HBS.shape[2] - masked :].mul_(mask_BB)
        self.av_HBV.baddbmm_(scores_HBS, v_HSV)

    def add_own(self, row: int, k_HCK: Tensor, v_HCV: Tensor) -> None:
        """Candidates' view of themselves, from a row on."""
        scores_HC = F.silu((self.q_HBK[:, row:] * k_HCK).sum(dim=2, keepdim=True))
        self.av_HBV[:, row:].addcmul_(scores_HC, v_HCV.to(scores_HC.dtype))
