"""Attention without the matrix: blocks of queries against tiles of keys.

A block computes only tiles that some of its rows may see, and masks only its diagonal.
Candidates' view of themselves is added apart, as an elementwise dot. Sums are float32 at
least, also over bfloat16 pages.

Shapes: H heads, R queries, T new tokens, A cached and causal tokens, B rows of a block,
K width of a query or key, V width of a value, E = H * V.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from relaygr.model.pages import CachedKV

BLOCK_ROWS = 128
"""Queries of a block. One thread, 1024 causal tokens, 4 heads of 64: 64 rows 6.7 ms, 128 rows 6.8, 256 rows 8.5."""

TILE_KEYS = 1024
"""Keys of a tile: a context up to this long is one matrix product per block."""


def attend(
    q_HRK: Tensor,
    k_HTK: Tensor,
    v_HTV: Tensor,
    cached: CachedKV,
    self_only: int,
    scale: float,
    normaliser: int,
) -> Tensor:
    """As ops/__init__.py says."""
    sums = torch.promote_types(q_HRK.dtype, torch.float32)
    queries, tokens = q_HRK.shape[1], k_HTK.shape[1]
    causal = tokens - self_only
    q_HRK = q_HRK.to(sums) * scale
    k_HAK = torch.cat([*cached.k_HSK, k_HTK[:, :causal]], dim=1).to(sums)
    v_HAV = torch.cat([*cached.v_HSV, v_HTV[:, :causal]], dim=1).to(sums)
    before = k_HAK.shape[1] - causal
    skipped = tokens - queries
    av_HRV = q_HRK.new_empty(q_HRK.shape[0], queries, v_HAV.shape[2])
    tril_BB = torch.ones(BLOCK_ROWS, BLOCK_ROWS, dtype=sums, device=q_HRK.device).tril()
    for first in range(0, queries, BLOCK_ROWS):
        end = min(first + BLOCK_ROWS, queries)
        # Rows of this block that are causal see a triangle that begins at key `diagonal`.
        diagonal = before + min(skipped + first, causal)
        keys = before + min(skipped + end, causal)
        q_HBK = q_HRK[:, first:end]
        av_HRV[:, first:end] = _block(q_HBK, k_HAK[:, :keys], v_HAV[:, :keys], diagonal, tril_BB)
    if self_only:
        q_HCK = q_HRK[:, queries - min(self_only, queries) :]
        own = q_HCK.shape[1]
        scores_HC = F.silu((q_HCK * k_HTK[:, tokens - own :]).sum(dim=2, keepdim=True))
        av_HRV[:, queries - own :].addcmul_(scores_HC, v_HTV[:, tokens - own :].to(sums))
    return av_HRV.div_(normaliser).transpose(0, 1).flatten(1).to(k_HTK.dtype)


def _block(q_HBK: Tensor, k_HAK: Tensor, v_HAV: Tensor, diagonal: int, tril_BB: Tensor) -> Tensor:
    """One block's sums; the first rows see keys from `diagonal` on as a triangle, the others see all keys."""
    keys = k_HAK.shape[1]
    triangle = keys - diagonal
    av_HBV = None
    for first in range(0, keys, TILE_KEYS):
        end = min(first + TILE_KEYS, keys)
        scores_HBA = F.silu(torch.bmm(q_HBK, k_HAK[:, first:end].transpose(1, 2)), inplace=True)
        if end > diagonal:
            from_key = max(first, diagonal)
            mask_BB = tril_BB[:triangle, from_key - diagonal : end - diagonal]
            scores_HBA[:, :triangle, from_key - first :].mul_(mask_BB)
        v_HTV = v_HAV[:, first:end]
        av_HBV = torch.bmm(scores_HBA, v_HTV) if av_HBV is None else av_HBV.baddbmm_(scores_HBA, v_HTV)
    if av_HBV is None:
        return q_HBK.new_zeros(q_HBK.shape[0], q_HBK.shape[1], v_HAV.shape[2])
    return av_HBV
