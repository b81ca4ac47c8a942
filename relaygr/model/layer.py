"""One HSTU layer in its two published forms, around an attention that is given to it.

silu_uvqk: U, V, Q, K = split(SiLU(LN(X) W1 + b1)),  X + W2(LN(AV) * U)
silu_u:    SiLU on U alone,                          X + W2(concat[U, AV, U * LN(AV)])

Shapes: ... any leading dimensions, T tokens, D hidden width, H heads, K width of a query
or key, V width of a value, E = H * V.

Source: HSTU (arXiv 2402.17152) and its published code.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from relaygr.model.config import ModelConfig

NORM_EPSILON = 1e-6


class Projected(NamedTuple):
    """What a layer makes of its input rows."""

    u_TE: Tensor
    q_HTK: Tensor
    k_HTK: Tensor
    v_HTV: Tensor


class HstuLayer(nn.Module):
    """The parts of a layer before and after attention."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gates_all = config.layer_form == "silu_uvqk"
        self.heads = config.heads
        self.qk_width = config.heads * config.qk_dim
        self.v_width = config.heads * config.v_dim
        self.norm_in = nn.LayerNorm(config.width, eps=NORM_EPSILON)
        self.project_in = nn.Linear(config.width, 2 * self.v_width + 2 * self.qk_width)
        self.norm_av = nn.LayerNorm(self.v_width, eps=NORM_EPSILON)
        self.project_out = nn.Linear(self.v_width * (1 if self.gates_all else 3), config.width)

    def project(self, x: Tensor) -> Projected:
        """Of rows [..., T, D]; the results have the same leading dimensions."""
        mixed = self.project_in(self.norm_in(x))
        if self.gates_all:
            mixed = F.silu(mixed)
        u, v, q, k = mixed.split([self.v_width, self.v_width, self.qk_width, self.qk_width], dim=-1)
        if not self.gates_all:
            u = F.silu(u)
        return Projected(u, self._by_head(q), self._by_head(k), self._by_head(v))

    def combine(self, x: Tensor, u: Tensor, av: Tensor) -> Tensor:
        """Gate what attention gathered and add it to the rows: all [..., T, ...]."""
        gated = self.norm_av(av) * u
        if not self.gates_all:
            gated = torch.cat([u, av, gated], dim=-1)
        return x + self.project_out(gated)

    def _by_head(self, rows: Tensor) -> Tensor:
        return rows.unflatten(-1, (self.heads, -1)).transpose(-3, -2)
