"""Plans traffic: who asks when, how long the history is then, and how long the stages take.

All is drawn from one seeded generator before the first request is sent. Arrivals are a Poisson
process, or a bursty one (a Poisson process whose rate alternates, with the same mean). Who arrives
is drawn apart from when: users come for the first time as a Poisson process of their own, each a
number of times that is drawn by Zipf's law with the mean that the share of returns asks for, with
log-normal gaps between; and the first to come by that account has the first arrival, and so on. So
a burst of arrivals holds as many newcomers as any other arrivals do. Whoever had begun before the
trace is new to it, which the warm-up is for. Between two visits a user's history grows (geometric); a few more
behaviours land while the stages of a request go on. With one length for all, histories begin
shorter by the mean growth, so that requests have that length on average.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bench.load.profile import Lengths, Stages, Traffic

SETTLED_GAPS = 16.0
"""Mean gaps from the first newcomer to the trace's begin: by then as many return as always will."""
SPARE_TIMES = 1.5
"""Newcomers drawn, of those that a trace needs on average."""

_NS = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRequest:
    """One request, with all that chance had to say about it."""

    index: int
    user: int
    arrives_ns: int
    """From the start of the trace."""
    retrieval_ns: int
    pre_processing_ns: int
    behaviours: int
    """Known on arrival: the prefix, less its user token."""
    delta: int
    """Behaviours that land between arrival and ranking."""
    candidates: int
    visit: int
    """0: the user's first in this trace."""
    is_counted: bool
    """False during the warm-up."""

    @property
    def due_ns(self) -> int:
        """When ranking is due, from the start of the trace."""
        return self.arrives_ns + self.retrieval_ns + self.pre_processing_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be drawn."""

    traffic: Traffic
    stages: Stages
    rate_hz: float
    seed: int
    first_user: int
    """Users are taken from here on, so that no probe meets another's psi."""
    users: int
    """Users there are; taken round."""
    tokens: int | Lengths
    """One length for all, or a distribution."""


def plan(wanted: Plan) -> list[PlannedRequest]:
    """Draw a trace, in order of arrival.

    Raises:
        ValueError: the trace would need more users than there are.
    """
    rng = np.random.default_rng(wanted.seed)
    traffic = wanted.traffic
    warm = max(1, round(traffic.warmup_s * wanted.rate_hz))
    arrivals_s = arrival_times_s(traffic, wanted.rate_hz, warm + traffic.requests, rng)
    visits = _Visits(traffic, wanted.rate_hz, warm + traffic.requests, rng)
    lengths = _first_lengths(wanted.tokens, rng)
    requests = []
    for index, at_s in enumerate(arrivals_s.tolist()):
        user, visit, behaviours = visits.next(at_s, lengths)
        requests.append(
            PlannedRequest(
                index=index,
                user=user,
                arrives_ns=int(at_s * _NS),
                retrieval_ns=_stage_ns(wanted.stages.retrieval_ms, wanted.stages.spread, rng),
                pre_processing_ns=_stage_ns(wanted.stages.pre_processing_ms, wanted.stages.spread, rng),
                behaviours=behaviours,
                delta=int(rng.integers(0, traffic.delta_most + 1)),
                candidates=traffic.candidates,
                visit=visit,
                is_counted=index >= warm,
            )
        )
    if visits.users > wanted.users:
        raise ValueError(f"the trace needs {visits.users} users, there are {wanted.users}")
    return _placed(requests, wanted)


def arrival_times_s(traffic: Traffic, rate_hz: float, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Arrivals from 0 on, seconds; their mean rate is `rate_hz` whatever their kind."""
    units = np.cumsum(rng.exponential(1.0, count))
    if traffic.arrivals == "poisson":
        return units / rate_hz
    return _bursty_s(units / rate_hz, traffic)


def _bursty_s(even_s: NDArray[np.float64], traffic: Traffic) -> NDArray[np.float64]:
    """Press the arrivals of each period into its burst, as much as the factor says."""
    period_s = traffic.burst_s / traffic.burst_share
    in_burst = traffic.burst_factor * traffic.burst_share
    cycle, place = np.divmod(even_s / period_s, 1.0)
    burst = place / in_burst * traffic.burst_share
    rest = traffic.burst_share + (place - in_burst) / (1.0 - in_burst) * (1.0 - traffic.burst_share)
    pressed: NDArray[np.float64] = (cycle + np.where(place < in_burst, burst, rest)) * period_s
    return pressed


class _Visits:
    """Who comes next."""

    def __init__(self, traffic: Traffic, rate_hz: float, count: int, rng: np.random.Generator) -> None:
        self._traffic = traffic
        self._rng = rng
        self._order = deque(order_of_users(traffic, rate_hz, count, rng).tolist())
        # Of users seen: their number here, visits so far, behaviours, and when they came last.
        self._seen: dict[int, tuple[int, int, int, float]] = {}

    @property
    def users(self) -> int:
        """Users seen so far."""
        return len(self._seen)

    def next(self, at_s: float, first_length: Callable[[], int]) -> tuple[int, int, int]:
        """User, visit and behaviours of an arrival."""
        who = self._take(at_s)
        if who in self._seen:
            user, visits, behaviours, _ = self._seen[who]
            grown = self._rng.geometric(1.0 / self._traffic.append_mean)
            visits, behaviours = visits + 1, behaviours + int(min(grown, self._traffic.append_most))
        else:
            user, visits, behaviours = len(self._seen), 0, first_length()
        self._seen[who] = user, visits, behaviours, at_s
        return user, visits, behaviours

    def _take(self, at_s: float) -> int:
        """The next in order who may come: nobody returns before the least gap, however fast arrivals follow."""
        for place, who in enumerate(self._order):
            if who not in self._seen or at_s - self._seen[who][3] >= self._traffic.return_gap_least_s:
                del self._order[place]
                return who
        raise AssertionError("the order is longer than the arrivals, and ends with somebody new")


def order_of_users(traffic: Traffic, rate_hz: float, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Who comes one after the other, at least `count` of them and then somebody new, once things are as they stay."""
    chances = visit_chances(1.0 / (1.0 - traffic.return_share), traffic.visits_most)
    mean_gap_s = traffic.return_gap_least_s + traffic.return_gap_s * np.exp(traffic.return_gap_spread**2 / 2)
    before_s = SETTLED_GAPS * mean_gap_s
    newcomers = 64 + int((1.0 - traffic.return_share) * (before_s * rate_hz + SPARE_TIMES * count))
    first_s = np.cumsum(rng.exponential(1.0 / ((1.0 - traffic.return_share) * rate_hz), newcomers)) - before_s
    visits = 1 + rng.choice(len(chances), newcomers, p=chances)
    gaps_s = traffic.return_gap_least_s + rng.lognormal(
        np.log(traffic.return_gap_s), traffic.return_gap_spread, (newcomers, traffic.visits_most)
    )
    gaps_s[:, 0] = first_s
    times_s = np.where(np.arange(traffic.visits_most) < visits[:, None], gaps_s.cumsum(axis=1), np.inf).ravel()
    order = np.argsort(times_s, kind="stable")
    # Beyond the last newcomer only returns are left, which is not as always.
    order = order[(times_s[order] >= 0.0) & (times_s[order] <= first_s[-1])]
    assert len(order) > count, "too few newcomers were drawn"
    return np.append(order // traffic.visits_most, newcomers)


def visit_chances(mean: float, most: int) -> NDArray[np.float64]:
    """Chances of 1, 2, ... `most` visits of one user: Zipf's law, with the exponent that gives this mean.

    Raises:
        ValueError: no exponent does, because `most` is too small.
    """
    counts = np.arange(1, most + 1, dtype=float)
    if mean >= counts.mean():
        raise ValueError(f"visits_most of {most} is too small for {mean:.2f} visits a user on average")
    low, high = 0.0, 64.0
    for _ in range(64):
        middle = (low + high) / 2
        chances = counts**-middle
        low, high = (middle, high) if (counts * chances).sum() / chances.sum() > mean else (low, middle)
    chances = counts**-high
    return np.asarray(chances / chances.sum())


def _first_lengths(tokens: int | Lengths, rng: np.random.Generator) -> Callable[[], int]:
    if isinstance(tokens, int):
        return lambda: tokens - 1
    middle = np.log(tokens.median_tokens)
    return lambda: int(np.clip(rng.lognormal(middle, tokens.spread), tokens.least_tokens, tokens.most_tokens)) - 1


def _stage_ns(mean_ms: float, spread: float, rng: np.random.Generator) -> int:
    if not spread:
        return int(mean_ms * 1e6)
    shape = 1.0 / spread**2
    return int(rng.gamma(shape, mean_ms / shape) * 1e6)


def _placed(requests: Sequence[PlannedRequest], wanted: Plan) -> list[PlannedRequest]:
    """Users numbered from where they are free; with one length for all, the mean moved onto it."""
    shift = 0
    if isinstance(wanted.tokens, int):
        shift = round(float(np.mean([request.behaviours for request in requests]))) - (wanted.tokens - 1)
    return [
        replace(
            request,
            user=(wanted.first_user + request.user) % wanted.users,
            behaviours=max(1, request.behaviours - shift),
        )
        for request in requests
    ]
