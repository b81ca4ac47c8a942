"""The same function as inference, for batches and with gradients.

One causal pass gives every position's history rows. Candidates of position t attend to
those rows up to t and to themselves, which is what ranking does with a psi of t
behaviours; so one pass trains all positions of a history. Cross features belong to a
request and are not trained here.

Shapes: B users, T behaviours, S scored positions, M candidates of a position, X = S * M,
D hidden width, H heads, K width of a query or key, V width of a value, F features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from relaygr.model import codes
from relaygr.model.hstu import HstuModel
from relaygr.model.layer import Projected


@dataclass(frozen=True, kw_only=True)
class TrainingBatch:
    """Padded histories, and candidates at positions of them.

    Feature tensors may be None when the model declares none. Padding comes after a user's
    behaviours and may hold any valid value: nothing before it sees it. Logits at positions
    at or beyond a user's length mean nothing.
    """

    item_rows_BT: Tensor
    """Rows of the item table (HstuModel.item_rows), int64."""
    actions_BT: Tensor
    timestamps_s_BT: Tensor
    """int64, non-decreasing."""
    lengths_B: Tensor
    """Behaviours of each user, int64."""
    candidate_rows_BSM: Tensor
    """Rows of the item table of the candidates at each scored position."""
    positions_BS: Tensor | None = None
    """Scored positions: t stands for the moment before behaviour t. None: all, S = T."""
    request_times_s_BS: Tensor | None = None
    """When each position is asked for; None: the timestamp of behaviour t."""
    profile_dense_BF: Tensor | None = None
    profile_categorical_BF: Tensor | None = None
    dense_BTF: Tensor | None = None
    categorical_BTF: Tensor | None = None
    candidate_dense_BSMF: Tensor | None = None
    candidate_categorical_BSMF: Tensor | None = None

    @property
    def positions(self) -> Tensor:
        """Scored positions, [B, S]."""
        if self.positions_BS is not None:
            return self.positions_BS
        users, length = self.item_rows_BT.shape
        return torch.arange(length, device=self.item_rows_BT.device).expand(users, length)

    @property
    def valid_BS(self) -> Tensor:
        """Which scored positions are before a behaviour that exists."""
        return self.positions < self.lengths_B[:, None]


def training_logits(model: HstuModel, batch: TrainingBatch, *, dropout: float = 0.0) -> Tensor:
    """Logits [B, S, M, tasks] of candidates (b, s, m) given the behaviours before positions[b, s].

    With dropout 0 equal to `run.infer_full` on each of these prefixes; dropout falls on token rows
    and on what each layer adds.
    """
    x_BTD = F.dropout(_history_rows(model, batch), dropout)
    x_BXD = F.dropout(_candidate_rows(model, batch), dropout)
    positions_BX = batch.positions.repeat_interleave(batch.candidate_rows_BSM.shape[2], dim=1)
    causal_TT = torch.ones(x_BTD.shape[1], x_BTD.shape[1], dtype=torch.bool, device=x_BTD.device).tril()
    seen_BXT = torch.arange(x_BTD.shape[1], device=x_BTD.device) <= positions_BX[:, :, None]
    for index, layer in enumerate(model.layers):
        history, asked = layer.project(x_BTD), layer.project(x_BXD)
        own_BHX = F.silu((asked.q_HTK * asked.k_HTK).sum(-1, keepdim=True) * model.config.scale)
        av_BHXV = _gathered(model, asked.q_HTK, history, seen_BXT[:, None]) + own_BHX * asked.v_HTV
        x_BXD = _combined(model, index, x_BXD, asked.u_TE, av_BHXV, dropout)
        if index + 1 < len(model.layers):
            av_BHTV = _gathered(model, history.q_HTK, history, causal_TT)
            x_BTD = _combined(model, index, x_BTD, history.u_TE, av_BHTV, dropout)
    return model.scorer(x_BXD).unflatten(1, tuple(batch.candidate_rows_BSM.shape[1:]))


def _gathered(model: HstuModel, q_BHXK: Tensor, history: Projected, mask: Tensor) -> Tensor:
    scores_BHXT = F.silu(model.config.scale * (q_BHXK @ history.k_HTK.transpose(-1, -2)))
    return scores_BHXT.masked_fill(~mask, 0.0) @ history.v_HTV


def _combined(model: HstuModel, index: int, x_BXD: Tensor, u_BXE: Tensor, av_BHXV: Tensor, dropout: float) -> Tensor:
    av_BXE = (av_BHXV / model.config.normaliser).transpose(1, 2).flatten(2)
    combined_BXD = model.layers[index].combine(x_BXD, u_BXE, av_BXE)
    return combined_BXD if dropout == 0.0 else x_BXD + F.dropout(combined_BXD - x_BXD, dropout)


def _history_rows(model: HstuModel, batch: TrainingBatch) -> Tensor:
    """User token and all behaviours but the last, which no scored position sees: [B, T, D]."""
    users, length = batch.item_rows_BT.shape
    times_s = batch.timestamps_s_BT
    gaps = codes.gap_codes(times_s[:, 1:] - times_s[:, :-1], model.config.gap_buckets)
    gaps = F.pad(gaps, (1, 0), value=codes.GAP_FIRST)
    x_BTD = model.tokens.behaviours(
        batch.item_rows_BT,
        batch.actions_BT,
        torch.arange(length, device=times_s.device).expand(users, length),
        gaps,
        _or_none(batch.dense_BTF, batch.item_rows_BT),
        _or_none(batch.categorical_BTF, batch.item_rows_BT),
    )
    first_BD = model.tokens.users(
        _or_none(batch.profile_dense_BF, batch.lengths_B), _or_none(batch.profile_categorical_BF, batch.lengths_B)
    )
    return torch.cat([first_BD[:, None], x_BTD[:, :-1]], dim=1)


def _candidate_rows(model: HstuModel, batch: TrainingBatch) -> Tensor:
    positions_BS, times_s = batch.positions, batch.timestamps_s_BT
    asked_s = batch.request_times_s_BS
    asked_s = times_s.gather(1, positions_BS) if asked_s is None else asked_s
    before_s = times_s.gather(1, (positions_BS - 1).clamp(min=0))
    gaps = codes.gap_codes(asked_s - before_s, model.config.gap_buckets)
    gaps = torch.where(positions_BS > 0, gaps, codes.GAP_FIRST)
    x_BSMD = model.tokens.candidates(
        batch.candidate_rows_BSM,
        positions_BS[:, :, None],
        gaps[:, :, None],
        _or_none(batch.candidate_dense_BSMF, batch.candidate_rows_BSM),
        _or_none(batch.candidate_categorical_BSMF, batch.candidate_rows_BSM),
    )
    return x_BSMD.flatten(1, 2)


def _or_none(features: Tensor | None, like: Tensor) -> Tensor:
    """The features, or none of them for each element of `like`."""
    return like.new_zeros(*like.shape, 0) if features is None else features
