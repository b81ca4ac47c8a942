"""Plans the replay: who asks when, for which items, and how long the earlier stages take.

Everything is drawn from one seeded generator before the first request is sent, so a replay
is the same twice and no request waits for another. Arrivals are a Poisson process. A request
stands at a behaviour of the later part of a history: what precedes it is known, the item of
that behaviour is among the candidates. Users with long histories come back several times,
with other users in between, as people do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relaygr.behaviours.store import FileStore
from relaygr.domain.identity import UserKey

RETRIEVAL_MEAN_S = 0.040
PRE_PROCESSING_MEAN_S = 0.020
_STAGE_SPREAD = 0.25
"""Standard deviation of a stage's time, as a share of its mean."""
_STAGE_SLOWEST = 3.0
"""No stage takes longer than this many times its mean."""
_LATE_BEHAVIOURS_MAX = 3
"""Behaviours that land while retrieval and pre-processing go on: the delta of the request."""
_HISTORY_LEAST = 20
_VISITS_OF_A_USER = 6
"""How often a user comes, unless the histories have too few users for that."""


@dataclass(frozen=True, kw_only=True)
class PlannedRequest:
    """One recommendation request, with all that chance had to say about it."""

    index: int
    user: str
    arrive_as_of_s: int
    """Behaviours before this Unix second are known when the request arrives."""
    rank_as_of_s: int
    """Behaviours before this Unix second are known when it is ranked."""
    history_count: int
    """Behaviours known on arrival."""
    item_ids: NDArray[np.int64]
    """Candidates."""
    chosen: int
    """Index of the candidate that the user took next."""
    arrives_s: float
    """When it arrives, seconds from the start of the replay."""
    retrieval_s: float
    pre_processing_s: float

    @property
    def ranks_s(self) -> float:
        """When ranking is due, seconds from the start of the replay."""
        return self.arrives_s + self.retrieval_s + self.pre_processing_s


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """The shape of a replay."""

    requests: int
    rate_hz: float
    candidates: int
    seed: int


@dataclass(frozen=True)
class _Visit:
    user: str
    arrive_as_of_s: int
    rank_as_of_s: int
    history_count: int
    item_id: int


def plan(
    store: FileStore,
    users: Sequence[str],
    later_from: Callable[[str, int], int],
    item_ids: NDArray[np.int64],
    traffic: Traffic,
) -> list[PlannedRequest]:
    """Draw a replay.

    Args:
        store: the whole histories.
        users: who may ask.
        later_from: of a user and the length of the log, the index at which the later part begins.
        item_ids: what candidates are drawn from: the items the model knows.
        traffic: how many, how fast, and the seed.

    Raises:
        ValueError: the histories have too few behaviours in their later part.
    """
    rng = np.random.default_rng(traffic.seed)
    visits = _visits(store, users, later_from, traffic.requests, rng)
    arrivals_s = np.cumsum(rng.exponential(1.0 / traffic.rate_hz, len(visits)))
    planned = []
    for index, (visit, arrives_s) in enumerate(zip(visits, arrivals_s, strict=True)):
        others = rng.choice(item_ids[item_ids != visit.item_id], min(traffic.candidates, len(item_ids)) - 1, False)
        chosen = int(rng.integers(len(others) + 1))
        planned.append(
            PlannedRequest(
                index=index,
                user=visit.user,
                arrive_as_of_s=visit.arrive_as_of_s,
                rank_as_of_s=visit.rank_as_of_s,
                history_count=visit.history_count,
                item_ids=np.insert(others, chosen, visit.item_id),
                chosen=chosen,
                arrives_s=float(arrives_s),
                retrieval_s=_stage_s(RETRIEVAL_MEAN_S, rng),
                pre_processing_s=_stage_s(PRE_PROCESSING_MEAN_S, rng),
            )
        )
    return planned


def _visits(
    store: FileStore,
    users: Sequence[str],
    later_from: Callable[[str, int], int],
    count: int,
    rng: np.random.Generator,
) -> list[_Visit]:
    """`count` visits, each user's in the order of time, the users mixed."""
    by_user = {user: _visits_of(store, user, later_from) for user in users}
    # The longest later parts first: these people are worth a long prefix, and they return.
    ordered = sorted((visits for visits in by_user.values() if visits), key=len, reverse=True)
    available = sum(map(len, ordered))
    if available < count:
        raise ValueError(f"these histories give {available} requests of {count}: ask for fewer")
    per_user = next(most for most in range(_VISITS_OF_A_USER, count + 1) if _total(ordered, most) >= count)
    chosen: list[list[_Visit]] = []
    missing = count
    for visits in ordered:
        chosen.append(_spread(visits, min(per_user, missing)))
        missing -= len(chosen[-1])
        if not missing:
            break
    order = rng.permutation(np.repeat(np.arange(len(chosen)), [len(visits) for visits in chosen]))
    ahead = [iter(visits) for visits in chosen]
    return [next(ahead[int(user)]) for user in order]


def _visits_of(store: FileStore, user: str, later_from: Callable[[str, int], int]) -> list[_Visit]:
    key = UserKey(store.meta.tenant, user)
    head = store.head(key)
    log = store.read(key, 0, head.log_count, head.generation)
    times_s = log.timestamps_s
    visits = []
    # A visit stands where time moved on: behaviours of one second cannot be told apart by a time.
    starts = np.flatnonzero(np.diff(times_s, prepend=times_s[:1] - 1) > 0)
    for place, at in enumerate(starts):
        # What landed since the arrival, whole seconds of it, few enough to be a delta.
        before = starts[place - 1] if place and at - starts[place - 1] <= _LATE_BEHAVIOURS_MAX else at
        if at >= later_from(user, head.log_count) and before >= _HISTORY_LEAST:
            visits.append(_Visit(user, int(times_s[before]), int(times_s[at]), int(before), int(log.item_ids[at])))
    return visits


def _total(ordered: list[list[_Visit]], per_user: int) -> int:
    return sum(min(per_user, len(visits)) for visits in ordered)


def _spread(visits: list[_Visit], count: int) -> list[_Visit]:
    """At most `count` of them, from the first to the last."""
    places = np.linspace(0, len(visits) - 1, min(count, len(visits))).astype(int)
    return [visits[place] for place in places]


def _stage_s(mean_s: float, rng: np.random.Generator) -> float:
    shape = 1.0 / _STAGE_SPREAD**2
    return float(min(rng.gamma(shape, mean_s / shape), _STAGE_SLOWEST * mean_s))
