"""Plans the replay: who asks when, for which items, and how long the earlier stages take.

The requests are the trainer's, made of the later part of the log; those with the longest
histories are replayed, since these are the ones that a relay is for. Here they get their
times, all drawn from one seeded generator before the first is sent: a replay is the same
twice, and no request waits for another. Arrivals are a Poisson process. Each user's requests
keep their order; the users are mixed, because months become seconds, and in a day's traffic
other users come in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from relaygr.behaviours.store import FileStore
from relaygr.domain.identity import UserKey
from trainer.requests import ReplayRequest

RETRIEVAL_MEAN_S = 0.040
PRE_PROCESSING_MEAN_S = 0.020
_STAGE_SPREAD = 0.25
"""Standard deviation of a stage's time, as a share of its mean."""
_STAGE_SLOWEST = 3.0
"""No stage takes longer than this many times its mean."""
_LATE_BEHAVIOURS_MAX = 3
"""Behaviours that land while retrieval and pre-processing go on: the delta of the request."""


@dataclass(frozen=True, kw_only=True)
class PlannedRequest:
    """One recommendation request, with all that chance had to say about it."""

    index: int
    asked: ReplayRequest
    arrive_as_of_s: int
    """Behaviours before this Unix second are known when the request arrives; before asked.time_s, when it is ranked."""
    arrive_count: int
    """Behaviours known on arrival."""
    arrives_s: float
    """When it arrives, seconds from the start of the replay."""
    retrieval_s: float
    pre_processing_s: float

    @property
    def ranks_s(self) -> float:
        """When ranking is due, seconds from the start of the replay."""
        return self.arrives_s + self.retrieval_s + self.pre_processing_s

    @property
    def delta_count(self) -> int:
        """Behaviours that land between arrival and ranking."""
        return self.asked.history_count - self.arrive_count


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """The shape of a replay."""

    requests: int
    rate_hz: float
    seed: int


def plan(asked: Sequence[ReplayRequest], store: FileStore, traffic: Traffic) -> list[PlannedRequest]:
    """Draw a replay.

    Args:
        asked: the requests to choose from, in order of time.
        store: the whole histories.
        traffic: how many, how fast, and the seed.

    Raises:
        ValueError: there are not as many requests.
    """
    rng = np.random.default_rng(traffic.seed)
    chosen = _mixed(_chosen(asked, traffic.requests), rng)
    arrivals_s = np.cumsum(rng.exponential(1.0 / traffic.rate_hz, len(chosen)))
    planned = []
    for index, request in enumerate(chosen):
        known, as_of_s = _on_arrival(store, request)
        planned.append(
            PlannedRequest(
                index=index,
                asked=request,
                arrive_as_of_s=as_of_s,
                arrive_count=known,
                arrives_s=float(arrivals_s[index]),
                retrieval_s=_stage_s(RETRIEVAL_MEAN_S, rng),
                pre_processing_s=_stage_s(PRE_PROCESSING_MEAN_S, rng),
            )
        )
    return planned


def _chosen(asked: Sequence[ReplayRequest], count: int) -> list[list[ReplayRequest]]:
    """The `count` requests with the longest histories, by user, each user's in order of time."""
    if len(asked) < count:
        raise ValueError(f"the later part of the log gives {len(asked)} requests, not {count}: ask for fewer")
    longest = sorted(range(len(asked)), key=lambda place: (-asked[place].history_count, place))[:count]
    by_user: dict[str, list[ReplayRequest]] = {}
    for place in sorted(longest):
        by_user.setdefault(asked[place].user, []).append(asked[place])
    return list(by_user.values())


def _mixed(by_user: list[list[ReplayRequest]], rng: np.random.Generator) -> list[ReplayRequest]:
    order = rng.permutation(np.repeat(np.arange(len(by_user)), [len(requests) for requests in by_user]))
    ahead = [iter(requests) for requests in by_user]
    return [next(ahead[user]) for user in order.tolist()]


def _on_arrival(store: FileStore, request: ReplayRequest) -> tuple[int, int]:
    """How many behaviours were there on arrival, and the second that says so."""
    key = UserKey(store.meta.tenant, request.user)
    first = max(0, request.history_count - _LATE_BEHAVIOURS_MAX)
    recent_s = store.read(key, first, request.history_count, store.meta.generation).timestamps_s
    for place, time_s in enumerate(recent_s.tolist()):
        # A time tells behaviours apart only where it moves on.
        known = store.head(key, time_s).log_count
        if known == first + place and known:
            return known, time_s
    return request.history_count, request.time_s


def _stage_s(mean_s: float, rng: np.random.Generator) -> float:
    shape = 1.0 / _STAGE_SPREAD**2
    return float(min(rng.gamma(shape, mean_s / shape), _STAGE_SLOWEST * mean_s))
