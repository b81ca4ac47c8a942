"""Shows that the check of exactness is able to fail: the wrong psi gives wrong scores.

The services never take another user's psi, so this is computed here, with the model itself:
a request is scored in full, and then on a psi made of another user's history.

Source: design, section 4 (identity and exactness).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import torch

from demo.plan import PlannedRequest
from relaygr.behaviours.columns import Behaviours, Candidates, Cross, Profile
from relaygr.behaviours.store import FileStore
from relaygr.domain.chain import PAGE_TOKENS
from relaygr.domain.identity import UserKey
from relaygr.domain.window import anchor_of
from relaygr.model.error import logit_error
from relaygr.model.interface import PageView, RelayModel, new_arena
from relaygr.model.loading import load_model
from relaygr.model.run import RankInputs, infer_full, pre_infer, rank_on_psi, run


def wrong_psi_difference(
    model_dir: Path, store: FileStore, planned: Sequence[PlannedRequest], pairs_max: int = 8
) -> float:
    """The smallest distance, over pairs of users, between true scores and those on the other's psi."""
    torch.set_num_threads(1)
    model = load_model(model_dir)
    first_of_user = {request.asked.user: request for request in reversed(planned)}
    requests = list(first_of_user.values())[: pairs_max + 1]
    assert len(requests) > 1, "another user's psi needs another user"
    with torch.inference_mode():
        return min(_distance(model, store, mine, other) for mine, other in itertools.pairwise(requests))


def _distance(model: RelayModel, store: FileStore, mine: PlannedRequest, other: PlannedRequest) -> float:
    profile, prefix, key = _history(model, store, mine)
    inputs = RankInputs(
        profile=profile,
        prefix=prefix,
        delta=store.read(key, mine.arrive_count, mine.asked.history_count, store.meta.generation),
        cross=Cross.empty(),
        candidates=Candidates.of(mine.asked.candidates),
        request_time_s=mine.asked.time_s,
    )
    wrong = _psi(model, *_history(model, store, other)[:2], tokens_max=1 + len(prefix))
    return logit_error(run(rank_on_psi(model, inputs, wrong)), run(infer_full(model, inputs)))


def _history(model: RelayModel, store: FileStore, request: PlannedRequest) -> tuple[Profile, Behaviours, UserKey]:
    key = UserKey(store.meta.tenant, request.asked.user)
    anchor = anchor_of(request.arrive_count, model.spec.limits)
    return store.profile(key), store.read(key, anchor, request.arrive_count, store.meta.generation), key


def _psi(model: RelayModel, profile: Profile, prefix: Behaviours, *, tokens_max: int) -> PageView:
    tokens = min(1 + len(prefix), tokens_max)
    pages = -(-tokens // PAGE_TOKENS)
    empty = PageView(new_arena(model, pages), tuple(range(pages)), 0)
    return run(pre_infer(model, profile, prefix, empty, chunk_tokens=PAGE_TOKENS, end_token=tokens))
