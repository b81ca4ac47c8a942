"""What a ranker needs of a model: the interface behind which a team puts its own.

A model embeds tokens, extends a context of cached K/V by new tokens, and scores
candidates. It holds no request state: K/V lives in pages that the caller owns. A model
that follows this file and passes `relaygr.model.conformance` may be served.

Shapes: T new tokens, C candidates, D hidden width, K tasks; the last C of T are the
candidates.

Source: design, section 4 (identity and exactness).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from relaygr.behaviours.columns import Behaviours, Candidates, Cross, FeatureSpec, Profile
from relaygr.domain.chain import PAGE_TOKENS
from relaygr.domain.identity import ModelIdentity, ModelLimits

Steps = Generator[None, None, Tensor]
"""Computation that yields where it may be preempted or dropped, and returns its result."""

TORCH_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}


@dataclass(frozen=True, slots=True)
class PageView:
    """A sequence of tokens' K/V in pages of an arena.

    Token i is at slot i % 128 of page page_ids[i // 128]. Slots at and beyond
    token_count hold anything and are never read.
    """

    arena: Tensor
    """[pages, page_elements]; rows contiguous."""
    page_ids: tuple[int, ...]
    token_count: int


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What the services know about a model."""

    identity: ModelIdentity
    tasks: tuple[str, ...]
    features: FeatureSpec
    limits: ModelLimits


@runtime_checkable
class RelayModel(Protocol):
    """A model that a ranker can serve."""

    @property
    def spec(self) -> ModelSpec:
        """Identity, tasks, features and limits."""
        ...

    @property
    def token_elements(self) -> int:
        """K/V elements of one token over all layers."""
        ...

    @property
    def page_elements(self) -> int:
        """K/V elements of one page: 128 tokens."""
        ...

    def known_items(self, item_ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these items are in the vocabulary; the others score all the same."""
        ...

    def embed_prefix(self, profile: Profile, behaviours: Behaviours, first_token: int, end_token: int) -> Tensor:
        """Rows of tokens [first_token, end_token) of a prefix, from the prefix alone.

        Token 0 is the user token, token i + 1 is behaviour i. A row may depend on earlier
        behaviours, never on later ones. Returns x_TD.
        """
        ...

    def embed_suffix(
        self,
        prefix_behaviour_count: int,
        last_prefix_timestamp_s: int | None,
        delta: Behaviours,
        cross: Cross,
        candidates: Candidates,
        request_time_s: int,
    ) -> tuple[Tensor, Tensor]:
        """Rows of what comes after the prefix.

        last_prefix_timestamp_s is not read when the prefix has no behaviours. Returns the
        delta's rows (short-term behaviours, then cross features) and the candidates' rows.
        """
        ...

    def extend(self, x_TD: Tensor, self_only: int, context: PageView | None, write: PageView | None) -> Steps:
        """Run the layers over new tokens that follow the context.

        The last `self_only` rows are candidates: each sees the context, all causal rows
        and itself. The other rows are causal. With `write`, K/V of the causal rows go to
        slots context.token_count and on (from 0 without a context) of write.page_ids;
        write.token_count is not read. Nothing else in the arena changes.

        Yields after each layer at least, better about every millisecond: that long a rank
        waits for a pre-infer. A model may have an `ask_to_yield(is_asking)` besides, called from
        any thread, that ends a running step early; then its steps may be longer. Returns the
        candidates' hidden rows, [self_only, D]: nobody needs those of causal rows, so a model
        need not compute them.
        """
        ...

    def head(self, hidden_CD: Tensor) -> Tensor:
        """Logits of candidates' hidden rows, [C, K] float32, larger is better."""
        ...


def page_tokens(model: RelayModel) -> int:
    """Tokens of one page of a model's K/V; 128 for a model that does not say."""
    return int(getattr(model, "page_tokens", PAGE_TOKENS))


def new_arena(model: RelayModel, pages: int, device: torch.device | str | None = None) -> Tensor:
    """An empty arena for a model's K/V: [pages, page_elements] of its dtype, where the model's weights are."""
    dtype = TORCH_DTYPES[model.spec.identity.dtype]
    device = device or getattr(model, "device", "cpu")
    return torch.zeros(pages, model.page_elements, dtype=dtype, device=device)
