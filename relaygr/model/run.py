"""The four jobs as compositions of `extend`: pre-infer, append, rank on psi, full inference.

Each job is a generator that yields where it may be preempted; an executor drives it step
by step, `run` drives it to its end. There is no other path to a score.

Shapes: T tokens, C candidates, D hidden width, K tasks.

Source: design, section 3 (ranker).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from relaygr.behaviours.columns import Behaviours, Candidates, Cross, Profile
from relaygr.model.interface import PageView, RelayModel, Steps

Result = TypeVar("Result")

EMBED_TOKENS = 1024
"""Tokens embedded in one step: half a millisecond. Of a full rank they may be many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankInputs:
    """All that a score depends on besides the model."""

    profile: Profile
    prefix: Behaviours
    """Exactly what precedes the cut, from the anchor on."""
    delta: Behaviours
    cross: Cross
    candidates: Candidates
    request_time_s: int

    @property
    def prefix_tokens(self) -> int:
        """Tokens of the prefix: the user token and its behaviours."""
        return 1 + len(self.prefix)


def run(steps: Generator[None, None, Result]) -> Result:
    """Drive a computation to its end."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


def pre_infer_chunk(
    model: RelayModel, profile: Profile, prefix: Behaviours, psi: PageView, end_token: int
) -> Generator[None, None, PageView]:
    """Extend psi to the first `end_token` tokens of the prefix, in one pass.

    psi.page_ids must hold end_token tokens. Until this returns, psi covers what it did
    before; slots beyond are in flux. Returns psi with its new count.
    """
    context = psi if psi.token_count else None
    x_TD = model.embed_prefix(profile, prefix, psi.token_count, end_token)
    yield from model.extend(x_TD, 0, context, psi)
    return replace(psi, token_count=end_token)


def pre_infer(
    model: RelayModel,
    profile: Profile,
    prefix: Behaviours,
    psi: PageView,
    *,
    chunk_tokens: int,
    end_token: int | None = None,
) -> Generator[None, None, PageView]:
    """Produce psi from where it stands, chunk by chunk.

    Args:
        model: the model.
        profile: the user token's features.
        prefix: all behaviours of the prefix.
        psi: the pages to write, and how many tokens they already hold: 0 for a new one.
        chunk_tokens: tokens of a pass; psi's count advances by whole passes.
        end_token: where to stop; None for the whole prefix.
    """
    end_token = 1 + len(prefix) if end_token is None else end_token
    while psi.token_count < end_token:
        chunk_end = min(psi.token_count + chunk_tokens, end_token)
        psi = yield from pre_infer_chunk(model, profile, prefix, psi, chunk_end)
    return psi


def append(
    model: RelayModel, profile: Profile, prefix: Behaviours, psi: PageView, *, chunk_tokens: int
) -> Generator[None, None, PageView]:
    """Extend a psi of a true prefix of `prefix` to the whole of it: pre-infer that does not start at nothing."""
    assert 0 < psi.token_count <= 1 + len(prefix), "an append needs a psi of a true prefix"
    return (yield from pre_infer(model, profile, prefix, psi, chunk_tokens=chunk_tokens))


def rank_on_psi(model: RelayModel, inputs: RankInputs, psi: PageView | None) -> Steps:
    """Score the candidates; logits [C, K], float32.

    psi may cover any number of the prefix's first tokens. The rest of the prefix is
    inferred in the same pass, before the delta; nothing is written.
    """
    covered = psi.token_count if psi else 0
    count = len(inputs.prefix)
    assert covered <= inputs.prefix_tokens, "psi covers more than the prefix"
    last_s = int(inputs.prefix.timestamps_s[-1]) if count else None
    x_delta_TD, x_CD = model.embed_suffix(
        count, last_s, inputs.delta, inputs.cross, inputs.candidates, inputs.request_time_s
    )
    parts = []
    for first in range(covered, inputs.prefix_tokens, EMBED_TOKENS):
        end = min(first + EMBED_TOKENS, inputs.prefix_tokens)
        parts.append(model.embed_prefix(inputs.profile, inputs.prefix, first, end))
        yield
    x_TD = torch.cat([*parts, x_delta_TD, x_CD])
    hidden_CD = yield from model.extend(x_TD, len(x_CD), psi if covered else None, None)
    return model.head(hidden_CD)


def infer_full(model: RelayModel, inputs: RankInputs) -> Steps:
    """Score the candidates from nothing; logits [C, K], float32."""
    return rank_on_psi(model, inputs, None)
