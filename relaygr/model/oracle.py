"""The HSTU model by its definition, in float64 and on one screen: what every kernel is checked against.

Nothing here is shared with what serves: no pages, no chunks, no cached K/V, no code of embed.py,
codes.py, layer.py or ops/. One dense matrix of all tokens against all tokens; slow, and meant to be.

Shapes: P prefix tokens, D delta tokens, C candidates, T = P + D + C, H heads, K tasks.

Source: design, section 4 (identity and exactness), conditions 1, 2 and 3.
Source: HSTU (arXiv 2402.17152) and its published code.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from relaygr.model.config import ModelConfig
from relaygr.model.run import RankInputs

Weights = dict[str, Tensor]


def infer_full_float64(
    config: ModelConfig, state: Mapping[str, Tensor], vocabulary: NDArray[np.int64], inputs: RankInputs
) -> Tensor:
    """Logits [C, K] in float64 of a model with these weights (a state_dict, any dtype) and item ids."""
    w = {name: weight.detach().cpu().double() for name, weight in state.items()}
    x = torch.stack(_token_rows(config, w, {int(item): row for row, item in enumerate(vocabulary, 1)}, inputs))
    tokens, candidates = len(x), len(inputs.candidates)

    seen = torch.ones(tokens, tokens).tril()  # Row t sees column s.
    seen[tokens - candidates :, tokens - candidates :] = torch.eye(candidates)

    for layer in range(config.layers):
        name = f"layers.{layer}"
        mixed = _linear(w, f"{name}.project_in", _norm(w, f"{name}.norm_in", x))
        widths = [config.heads * dim for dim in (config.v_dim, config.v_dim, config.qk_dim, config.qk_dim)]
        u, v, q, k = mixed.split(widths, dim=1)
        if config.layer_form == "silu_uvqk":
            u, v, q, k = _silu(u), _silu(v), _silu(q), _silu(k)
        else:
            u = _silu(u)
        gathered = []
        for v_h, q_h, k_h in zip(*(each.chunk(config.heads, dim=1) for each in (v, q, k)), strict=True):
            alpha = config.alpha or 1 / config.qk_dim**0.5
            gathered.append((_silu(alpha * q_h @ k_h.T) * seen / config.normaliser) @ v_h)
        av = torch.cat(gathered, dim=1)
        gated = _norm(w, f"{name}.norm_av", av) * u
        gated = gated if config.layer_form == "silu_uvqk" else torch.cat([u, av, gated], dim=1)
        x = x + _linear(w, f"{name}.project_out", gated)

    hidden = _silu(_linear(w, "scorer.hidden", _norm(w, "scorer.norm", x[tokens - candidates :])))
    return _linear(w, "scorer.logits", hidden)


def _token_rows(config: ModelConfig, w: Weights, row_of: Mapping[int, int], inputs: RankInputs) -> list[Tensor]:
    """User, behaviours of prefix and delta, cross features, candidates: one row each."""

    def item(item_id: int) -> Tensor:
        return w["tokens.item.weight"][row_of.get(int(item_id), 0)]

    def position(index: int) -> Tensor:
        return w["tokens.position.weight"][min(index, config.positions - 1)]

    def gap(from_s: int | None, to_s: int) -> Tensor:
        # 1 + floor(log2(gap + 1)) is the number of bits of gap + 1; 0 when nothing precedes.
        code = 0 if from_s is None else (max(to_s - from_s, 0) + 1).bit_length()
        return w["tokens.gap.weight"][min(code, config.gap_buckets - 1)]

    def action(code: int) -> Tensor:
        return w["tokens.action.weight"][code if 0 <= code < config.actions else 0]

    rows = [w["tokens.user"] + _features(w, "user", inputs.profile.dense, inputs.profile.categorical)]
    index, last_s = 0, None
    for part in (inputs.prefix, inputs.delta):
        for at in range(len(part)):
            time_s = int(part.timestamps_s[at])
            row = item(part.item_ids[at]) + action(int(part.actions[at])) + position(index) + gap(last_s, time_s)
            rows.append(row + _features(w, "behaviour", part.dense[at], part.categorical[at]))
            index, last_s = index + 1, time_s
    rows += [_linear(w, "tokens.cross", _float64(dense)) for dense in inputs.cross.dense]
    asked = position(index) + gap(last_s, inputs.request_time_s)
    columns = (inputs.candidates.item_ids, inputs.candidates.dense, inputs.candidates.categorical)
    for item_id, dense, categorical in zip(*columns, strict=True):
        rows.append(item(item_id) + asked + _features(w, "candidate", dense, categorical))
    return rows


def _features(w: Weights, kind: str, dense: NDArray[np.float32], categorical: NDArray[np.int32]) -> Tensor:
    name = f"tokens.{kind}_features"
    row = torch.zeros_like(w["tokens.user"])
    if len(dense):
        row = row + w[f"{name}.dense.weight"] @ _float64(dense)
    for column, code in enumerate(categorical):
        table = w[f"{name}.categorical.{column}.weight"]
        row = row + table[int(code) if 0 <= code < len(table) else 0]
    return row


def _linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def _norm(w: Weights, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    deviation = (centred.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()
    return centred / deviation * w[f"{name}.weight"] + w[f"{name}.bias"]


def _silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def _float64(values: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(values.astype(np.float64))
