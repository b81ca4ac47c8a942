"""Attention by its definition: one dense mask, one dense matrix. The oracle.

Shapes: H heads, R queries, T new tokens, S cached tokens, A = S + T, K width of a query
or key, V width of a value, E = H * V.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from relaygr.model.pages import CachedKV


def visible(cached_tokens: int, new_tokens: int, self_only: int) -> Tensor:
    """The mask: [T, S + T], true where a new token (row) sees a token (column)."""
    causal = new_tokens - self_only
    among_new = torch.ones(new_tokens, new_tokens, dtype=torch.bool).tril()
    among_new[causal:, causal:] = torch.eye(self_only, dtype=torch.bool)
    return torch.cat([torch.ones(new_tokens, cached_tokens, dtype=torch.bool), among_new], dim=1)


def attend(
    q_HRK: Tensor,
    k_HTK: Tensor,
    v_HTV: Tensor,
    cached: CachedKV,
    self_only: int,
    scale: float,
    normaliser: int,
) -> Tensor:
    """As ops/__init__.py says; float64 stays float64."""
    sums = torch.promote_types(q_HRK.dtype, torch.float32)
    k_HAK = torch.cat([*cached.k_HSK, k_HTK], dim=1).to(sums)
    v_HAV = torch.cat([*cached.v_HSV, v_HTV], dim=1).to(sums)
    queries, new_tokens, all_tokens = q_HRK.shape[1], k_HTK.shape[1], k_HAK.shape[1]
    mask_TA = visible(all_tokens - new_tokens, new_tokens, self_only).to(q_HRK.device)
    mask_RA = mask_TA[new_tokens - queries :]
    scores_HRA = F.silu(scale * (q_HRK.to(sums) @ k_HAK.transpose(1, 2))) * mask_RA
    av_HRV = scores_HRA @ v_HAV / normaliser
    return av_HRV.transpose(0, 1).flatten(1).to(q_HRK.dtype)
