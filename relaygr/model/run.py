"""The four jobs as compositions of `extend`: pre-infer, append, rank on psi, full inference.

Each job is a generator that yields where it may be preempted; an executor drives it step
by step, `run` drives it to its end. There is no other path to a score.

Shapes: T tokens, C candidates, D hidden width, K tasks.

Source: design, section 3 (ranker).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from relaygr.behaviours.columns import Behaviours, Candidates, Cross, Profile
from relaygr.model.interface import PageView, RelayModel, Steps, page_tokens

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


def rank_on_psi(
    model: RelayModel,
    inputs: RankInputs,
    psi: PageView | None,
    *,
    micro_batch: int | None = None,
    scratch: PageView | None = None,
) -> Steps:
    """Score the candidates; logits [C, K], float32.

    psi may cover any number of the prefix's first tokens. The rest of the prefix is
    inferred in the same pass, before the delta; without `micro_batch` nothing is written.

    Args:
        model: the model.
        inputs: the request.
        psi: K/V of the prefix's first tokens, or None.
        micro_batch: score the candidates in groups of so many (M-FALCON): a group's rows
            bound the memory of a pass and how long it is. What the groups share is inferred
            once: the pass of the first group keeps its K/V in scratch, the others read it.
        scratch: with micro_batch, `scratch_pages` unused pages of psi's arena, to be held
            until this ends; token_count is not read. None suffices where that is 0.
    """
    covered = psi.token_count if psi else 0
    context = psi if covered else None
    assert covered <= inputs.prefix_tokens, "psi covers more than the prefix"
    assert micro_batch is None or micro_batch > 0, "a group holds at least one candidate"
    x_TD, x_CD = yield from _rows_after(model, inputs, covered)
    if micro_batch is None or len(x_CD) <= micro_batch:
        hidden_CD = yield from model.extend(torch.cat([x_TD, x_CD]), len(x_CD), context, None)
    else:
        kept = _continued(model, context, scratch, len(x_TD)) if len(x_TD) else None
        hidden_CD = yield from _extend_in_groups(model, x_TD, x_CD.split(micro_batch), context, kept)
    return model.head(hidden_CD)


def infer_full(
    model: RelayModel, inputs: RankInputs, *, micro_batch: int | None = None, scratch: PageView | None = None
) -> Steps:
    """Score the candidates from nothing; logits [C, K], float32."""
    return rank_on_psi(model, inputs, None, micro_batch=micro_batch, scratch=scratch)


def scratch_pages(model: RelayModel, inputs: RankInputs, psi: PageView | None) -> int:
    """Pages that ranking in micro-batches needs: for what follows psi, from the page on in which psi ends."""
    covered = psi.token_count if psi else 0
    causal = inputs.prefix_tokens - covered + len(inputs.delta) + len(inputs.cross)
    tokens = page_tokens(model)
    return -(-(covered % tokens + causal) // tokens) if causal else 0


def _rows_after(model: RelayModel, inputs: RankInputs, covered: int) -> Generator[None, None, tuple[Tensor, Tensor]]:
    """Rows of causal tokens that psi does not cover, and of the candidates."""
    count = len(inputs.prefix)
    last_s = int(inputs.prefix.timestamps_s[-1]) if count else None
    x_TD, x_CD = model.embed_suffix(count, last_s, inputs.delta, inputs.cross, inputs.candidates, inputs.request_time_s)
    parts = []
    for first in range(covered, inputs.prefix_tokens, EMBED_TOKENS):
        end = min(first + EMBED_TOKENS, inputs.prefix_tokens)
        parts.append(model.embed_prefix(inputs.profile, inputs.prefix, first, end))
        yield
    return torch.cat([*parts, x_TD]), x_CD


def _extend_in_groups(
    model: RelayModel, x_TD: Tensor, groups: Sequence[Tensor], context: PageView | None, kept: PageView | None
) -> Steps:
    """Hidden rows of all candidates; the first group's pass writes the causal rows' K/V to `kept`."""
    hidden, write = [], kept
    for x_CD in groups:
        hidden.append((yield from model.extend(torch.cat([x_TD, x_CD]), len(x_CD), context, write)))
        x_TD, context, write = x_TD[:0], kept or context, None
    return torch.cat(hidden)


def _continued(model: RelayModel, psi: PageView | None, scratch: PageView | None, tokens: int) -> PageView:
    """Psi and so many more tokens: its full pages, then scratch, which begins with a copy of psi's last part.

    Psi itself may be leased to others and may be longer than this request's view of it, so
    its last page cannot take the new tokens.
    """
    assert scratch is not None, "ranking in micro-batches needs scratch pages"
    if psi is None:
        return replace(scratch, token_count=tokens)
    assert scratch.arena is psi.arena, "scratch must be of psi's arena"
    whole, rest = divmod(psi.token_count, page_tokens(model))
    if rest:
        with torch.inference_mode():
            scratch.arena[scratch.page_ids[0]] = psi.arena[psi.page_ids[whole]]
    return replace(scratch, page_ids=psi.page_ids[:whole] + scratch.page_ids, token_count=psi.token_count + tokens)
