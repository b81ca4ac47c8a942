"""The baseline: HSTU as one writes it in plain torch, with the whole score matrix.

Linear layers, QK^T of every pair, SiLU, division by N, times the causal mask, PV; each
layer whole, one pass, the model's own weights and dtype. It is what the published
layer's reference form does, and it is a fair one: a test holds it to the model's scores.

`lean` is the same with what costs nobody a thought: SiLU in place, N divided out of the
result and not out of the matrix. It says how much of a speed-up is only that.

Shapes: H heads, T tokens, D hidden width, E all heads' values side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.engine.shapes import Shape
from relaygr.model.hstu import HstuModel
from relaygr.model.layer import NORM_EPSILON

MATRICES_ALIVE = 3
"""Scores, their SiLU and the masked ones are in memory together."""


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer's, as the model stores them."""

    norm_in: tuple[Tensor, Tensor]
    project_in: tuple[Tensor, Tensor]
    norm_av: tuple[Tensor, Tensor]
    project_out: tuple[Tensor, Tensor]


class DenseStack:
    """The layers of a model over a whole sequence."""

    def __init__(self, model: HstuModel, *, lean: bool = False):
        config = model.config
        assert config.layer_form == "silu_uvqk", "the baseline knows one layer form"
        assert config.qk_dim == config.v_dim, "and heads of one width"
        self._heads, self._scale, self._normaliser, self._lean = config.heads, config.scale, config.normaliser, lean
        self._layers = weights_of(model)

    @torch.inference_mode()
    def __call__(self, x_TD: Tensor, mask_TT: Tensor) -> Tensor:
        """Hidden rows [T, D] of rows that see what the mask says: [T, T], true where row sees column."""
        for layer in self._layers:
            x_TD = x_TD + self._layer(layer, x_TD, mask_TT)
        return x_TD

    def _layer(self, layer: LayerWeights, x_TD: Tensor, mask_TT: Tensor) -> Tensor:
        normed = F.layer_norm(x_TD, x_TD.shape[-1:], *layer.norm_in, eps=NORM_EPSILON)
        u_TE, v_TE, q_TE, k_TE = F.silu(F.linear(normed, *layer.project_in)).chunk(4, dim=-1)
        q, k, v = (rows.unflatten(-1, (self._heads, -1)).transpose(0, 1) for rows in (q_TE, k_TE, v_TE))
        av_HTV = self._lean_attention(q, k, v, mask_TT) if self._lean else self._attention(q, k, v, mask_TT)
        av_TE = av_HTV.transpose(0, 1).flatten(1)
        gated = F.layer_norm(av_TE, av_TE.shape[-1:], *layer.norm_av, eps=NORM_EPSILON) * u_TE
        return F.linear(gated, *layer.project_out)

    def _attention(self, q: Tensor, k: Tensor, v: Tensor, mask_TT: Tensor) -> Tensor:
        scores = F.silu((q * self._scale) @ k.transpose(1, 2)) / self._normaliser
        return (scores * mask_TT) @ v

    def _lean_attention(self, q: Tensor, k: Tensor, v: Tensor, mask_TT: Tensor) -> Tensor:
        scores = F.silu((q * self._scale) @ k.transpose(1, 2), inplace=True).mul_(mask_TT)
        return scores @ v / self._normaliser


def weights_of(model: HstuModel) -> Sequence[LayerWeights]:
    """By name from the state, so that it does not matter how the model's own kernel keeps them."""
    state = model.state_dict()

    def pair(layer: int, part: str) -> tuple[Tensor, Tensor]:
        return state[f"layers.{layer}.{part}.weight"], state[f"layers.{layer}.{part}.bias"]

    return [
        LayerWeights(*(pair(layer, part) for part in ("norm_in", "project_in", "norm_av", "project_out")))
        for layer in range(model.config.layers)
    ]


def causal_mask(tokens: int) -> Tensor:
    """[T, T], true where a row sees a column; made once, as one keeps it in a buffer."""
    return torch.ones(tokens, tokens, dtype=torch.bool).tril()


def bytes_needed(shape: Shape, tokens: int) -> int:
    """The most it has in memory at a time: bfloat16 matrices and the mask."""
    return tokens * tokens * (2 * shape.heads * MATRICES_ALIVE + 1)
