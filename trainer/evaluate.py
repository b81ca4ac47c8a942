"""How well a model ranks the later part, against popularity.

Every request is scored as ranking does it: full inference over the behaviours before the
request, candidates as in the replay. Popularity scores an item by its count in the training part.
Both see the same candidates.

auc                mean over requests: is a positive above a uniformly drawn item?
auc_pooled         the same over all requests together
hit_rate_10        share of positives among the ten best of themselves and the request's negatives
auc_like           among positives only: is a liked one (action >= 4) above another?
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relaygr.behaviours.columns import Behaviours, Candidates, Cross
from relaygr.behaviours.store import FileStore
from relaygr.domain.identity import UserKey
from relaygr.domain.window import anchor_of
from relaygr.model.hstu import HstuModel
from relaygr.model.run import RankInputs, infer_full, run
from trainer.metrics import auc, hits_at
from trainer.requests import ReplayRequest
from trainer.split import LIKE_ACTION_MIN, Split

Scorer = Callable[[ReplayRequest], NDArray[Any]]
"""Scores of a request's candidates, [C, tasks]."""

HITS_AT = 10


def model_scorer(model: HstuModel, store: FileStore) -> Scorer:
    """Scores by full inference over the store's behaviours before the request."""
    return lambda request: run(infer_full(model, inputs_of(model, store, request))).numpy()


def inputs_of(model: HstuModel, store: FileStore, request: ReplayRequest) -> RankInputs:
    """What the model is asked: everything before the request is prefix, nothing is delta."""
    limits, generation = model.spec.limits, store.meta.generation
    user = UserKey(store.meta.tenant, request.user)
    count = store.head(user, request.time_s).log_count
    return RankInputs(
        profile=store.profile(user),
        prefix=store.read(user, anchor_of(count, limits), count, generation),
        delta=Behaviours.empty(),
        cross=Cross.empty(),
        candidates=Candidates.of(request.candidates),
        request_time_s=request.time_s,
    )


def popularity_scorer(split: Split) -> Scorer:
    """Scores by occurrences in the training part."""
    return lambda request: split.popularity_of(np.asarray(request.candidates))[:, None]


def measure(requests: Sequence[ReplayRequest], score: Scorer, tasks: Sequence[str]) -> dict[str, float]:
    """The metrics of the module's docstring; NaN where a log does not hold what one needs."""
    aucs, hits, pooled_scores, pooled_labels, like_scores, like_labels = [], [], [], [], [], []
    for request in requests:
        scores, candidates = score(request), np.asarray(request.candidates)
        is_positive = np.isin(candidates, request.positives)
        click = scores[:, 0]
        aucs.append(auc(click, is_positive))
        hits.append(hits_at(click, is_positive, HITS_AT))
        pooled_scores.append(click)
        pooled_labels.append(is_positive)
        if "like" in tasks:
            actions = dict(zip(request.positives, request.actions, strict=True))
            like_scores.append(scores[is_positive, list(tasks).index("like")])
            like_labels += [actions[item] >= LIKE_ACTION_MIN for item in candidates[is_positive].tolist()]
    return {
        "auc": _mean(aucs),
        "auc_pooled": auc(np.concatenate(pooled_scores), np.concatenate(pooled_labels)) if requests else float("nan"),
        "hit_rate_10": _mean(np.concatenate(hits)) if hits else float("nan"),
        "auc_like": auc(np.concatenate(like_scores), like_labels) if like_labels else float("nan"),
    }


def thinned(requests: Sequence[ReplayRequest], count_max: int) -> list[ReplayRequest]:
    """At most `count_max` requests, evenly over time."""
    if len(requests) <= count_max:
        return list(requests)
    return [requests[int(place)] for place in np.linspace(0, len(requests) - 1, count_max)]


def _mean(values: Iterable[float]) -> float:
    known = np.asarray(list(values), float)
    known = known[np.isfinite(known)]
    return float(known.mean()) if len(known) else float("nan")
