"""A team's own model: linear attention without HSTU, behind RelayGR's model interface.

One layer. A candidate's hidden row is its own row plus the mean-pooled values of the
history, weighted by the plain product of query and key:

    hidden_c = x_c + (sum over history (q_c . k_j) v_j + (q_c . k_c) v_c) / N

Shapes: T new tokens, C candidates, A all tokens a candidate sees, D width, K tasks.
"""

import numpy as np
import torch
from torch import nn

from relaygr.behaviours.columns import FeatureSpec
from relaygr.domain.identity import ModelIdentity, ModelLimits
from relaygr.model.interface import TORCH_DTYPES, ModelSpec
from relaygr.model.pages import PageLayout

WIDTH, POOL, POSITIONS = 16, 100, 64


class PooledModel(nn.Module):
    """Item and position embeddings, one linear attention layer, one task."""

    def __init__(self, item_ids, seed=0, dtype="float32"):
        super().__init__()
        torch.manual_seed(seed)
        self.item_ids = np.unique(item_ids)
        self.items = nn.Embedding(len(self.item_ids) + 1, WIDTH)
        self.positions = nn.Embedding(POSITIONS, WIDTH)
        self.user = nn.Parameter(torch.randn(WIDTH))
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.score = nn.Linear(WIDTH, 1)
        # One layer, one head. You may also lay pages out yourself: only sizes are fixed.
        self.layout = PageLayout(layers=1, heads=1, qk_dim=WIDTH, v_dim=WIDTH)
        self.token_elements = self.layout.token_elements
        self.page_elements = self.layout.page_elements
        # In production weights_digest is the SHA-256 of the weights file; a psi made by other weights is then a miss.
        identity = ModelIdentity("pooled", "1", f"seed-{seed}", dtype, "pooled-kv", POOL)
        self.spec = ModelSpec(identity, ("click",), FeatureSpec(), ModelLimits(1000, 100, 50, 200))
        self.requires_grad_(False).to(TORCH_DTYPES[dtype])

    def known_items(self, item_ids):
        return np.isin(item_ids, self.item_ids)

    def embed_prefix(self, profile, behaviours, first_token, end_token):
        first, end = max(first_token - 1, 0), max(end_token - 1, 0)
        x_TD = self._rows(behaviours.item_ids[first:end], first)
        return torch.cat([self.user[None], x_TD]) if first_token == 0 < end_token else x_TD

    def embed_suffix(self, prefix_behaviour_count, last_prefix_timestamp_s, delta, cross, candidates, request_time_s):
        last = prefix_behaviour_count + len(delta)
        # All candidates stand at the same place: right after the history.
        x_CD = self._rows(candidates.item_ids, np.full(len(candidates), last))
        return self._rows(delta.item_ids, prefix_behaviour_count), x_CD

    @torch.inference_mode()
    def extend(self, x_TD, self_only, context, write):
        causal = len(x_TD) - self_only
        k_TD, v_TD = self.key(x_TD), self.value(x_TD)
        if write:
            first = context.token_count if context else 0
            self.layout.store(write, 0, first, k_TD[None, :causal], v_TD[None, :causal])
        yield  # after each layer, so that a more urgent request can go first

        cached = self.layout.cached(context, 0)
        k_AD = torch.cat([*(page[0] for page in cached.k_HSK), k_TD[:causal]]).float()
        v_AD = torch.cat([*(page[0] for page in cached.v_HSV), v_TD[:causal]]).float()
        x_CD, k_CD, v_CD = x_TD[causal:], k_TD[causal:].float(), v_TD[causal:].float()
        q_CD = self.query(x_CD).float()
        pooled_CD = q_CD @ k_AD.T @ v_AD + (q_CD * k_CD).sum(1, keepdim=True) * v_CD
        return x_CD + (pooled_CD / POOL).to(x_CD.dtype)

    @torch.inference_mode()
    def head(self, hidden_CD):
        return self.score(hidden_CD).float()

    def _rows(self, item_ids, positions):
        if np.isscalar(positions):
            positions = positions + np.arange(len(item_ids))
        places = np.searchsorted(self.item_ids, item_ids)
        rows = np.where(self.known_items(item_ids), places + 1, 0)
        return self.items(torch.tensor(rows)) + self.positions(torch.tensor(np.minimum(positions, POSITIONS - 1)))


def pooled_float64(model, inputs):
    """The formula above once more, over whole sequences and in float64: what the suite holds the model to."""
    weights = {name: weight.double() for name, weight in model.state_dict().items()}
    item_ids = [*inputs.prefix.item_ids, *inputs.delta.item_ids]
    row_of = {int(item): row for row, item in enumerate(model.item_ids, 1)}

    def row(item, position):
        place = min(position, POSITIONS - 1)
        return weights["items.weight"][row_of.get(int(item), 0)] + weights["positions.weight"][place]

    def linear(name, x):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    history = torch.stack([weights["user"], *(row(item, place) for place, item in enumerate(item_ids))])
    logits = []
    for item in inputs.candidates.item_ids:
        x = row(item, len(item_ids))
        pooled = sum((linear("query", x) @ linear("key", seen)) * linear("value", seen) for seen in [*history, x])
        logits.append(linear("score", x + pooled / POOL))
    return torch.stack(logits)


def make_model():
    """What RELAYGR_RANKER_MODEL=my_package.my_model:make_model would name."""
    return PooledModel(item_ids=np.arange(1000))
