"""From columns to token rows.

Behaviour: item + action + position + time gap + features. Candidate: item + the next
position + the gap to the request + features, no action. Cross token: a linear map of its
dense features. User token: a learned vector + profile features.

Shapes: ... any leading dimensions, D hidden width, F features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from relaygr.model.codes import position_codes
from relaygr.model.config import ModelConfig


class FeatureEmbedding(nn.Module):
    """Declared dense and categorical features of one kind of token, as a sum."""

    def __init__(self, dense_width: int, categorical_sizes: tuple[int, ...], width: int):
        super().__init__()
        self.dense = nn.Linear(dense_width, width, bias=False) if dense_width else None
        self.categorical = nn.ModuleList(nn.Embedding(size, width) for size in categorical_sizes)

    @property
    def is_empty(self) -> bool:
        """True when no features are declared."""
        return self.dense is None and not len(self.categorical)

    def add_to(self, x: Tensor, dense: Tensor, categorical: Tensor) -> Tensor:
        """Rows [..., D] plus their features' rows; widths must be as declared."""
        declared = self.dense.in_features if self.dense is not None else 0
        assert dense.shape[-1] == declared, f"{dense.shape[-1]} dense features, {declared} declared"
        assert categorical.shape[-1] == len(self.categorical), "categorical features as declared"
        if self.dense is not None:
            x = x + _projected(dense, self.dense.weight, x.dtype)
        for column, table in enumerate(self.categorical):
            x = x + table(in_table(categorical[..., column], table.num_embeddings))
        return x


class TokenEmbedding(nn.Module):
    """The tables of a model."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        width, features = config.width, config.features
        self.item = nn.Embedding(config.items + 1, width)
        self.action = nn.Embedding(config.actions, width)
        self.position = nn.Embedding(config.positions, width)
        self.gap = nn.Embedding(config.gap_buckets, width)
        self.user = nn.Parameter(torch.empty(width))
        self.user_features = FeatureEmbedding(features.user_dense, features.user_categorical, width)
        self.behaviour_features = FeatureEmbedding(features.behaviour_dense, features.behaviour_categorical, width)
        self.candidate_features = FeatureEmbedding(features.candidate_dense, features.candidate_categorical, width)
        self.cross = nn.Linear(features.cross_dense, width) if features.cross_dense else None

    def users(self, dense: Tensor, categorical: Tensor) -> Tensor:
        """User tokens: dense [..., F], categorical [..., F] -> [..., D]."""
        return self.user_features.add_to(self.user.expand(*dense.shape[:-1], -1), dense, categorical)

    def behaviours(
        self, item_rows: Tensor, actions: Tensor, positions: Tensor, gaps: Tensor, dense: Tensor, categorical: Tensor
    ) -> Tensor:
        """Behaviour tokens; positions are indices from the anchor, gaps are codes."""
        x = self.item(item_rows) + self.action(in_table(actions, self.action.num_embeddings))
        x = x + self.position(position_codes(positions, self.position.num_embeddings)) + self.gap(gaps)
        return self.behaviour_features.add_to(x, dense, categorical)

    def candidates(
        self, item_rows: Tensor, positions: Tensor, gaps: Tensor, dense: Tensor, categorical: Tensor
    ) -> Tensor:
        """Candidate tokens; position and gap broadcast against the items."""
        x = self.item(item_rows) + self.position(position_codes(positions, self.position.num_embeddings))
        return self.candidate_features.add_to(x + self.gap(gaps), dense, categorical)

    def cross_tokens(self, dense: Tensor) -> Tensor:
        """Cross tokens: [n, F] -> [n, D]."""
        if self.cross is None:
            assert not dense.numel(), "the model declares no cross features"
            return self.user.new_empty(0, self.user.shape[0])
        return F.linear(dense.to(self.cross.weight.dtype), self.cross.weight, self.cross.bias)


def in_table(codes: Tensor, rows: int) -> Tensor:
    """Codes outside [0, rows) count as 0."""
    codes = codes.long()
    return torch.where((codes >= 0) & (codes < rows), codes, 0)


def _projected(dense: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    # How a product is split depends on how many rows it has, and so does its rounding. Summed in
    # float64 a row is the same in every chunk, which quantised K/V needs to stay equal to full
    # inference. Accelerators round as they do: not all of them have float64.
    wide = torch.float64 if dense.device.type == "cpu" else dtype
    return F.linear(dense.to(wide), weight.to(wide)).to(dtype)
