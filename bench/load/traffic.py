"""Plans traffic: who asks when, how long the history is then, and how long the stages take.

All is drawn from one seeded generator before the first request is sent. Arrivals are a Poisson
process, or a bursty one (a Poisson process whose rate alternates, with the same mean). How often
a user comes is drawn by Zipf's law when it is first seen, with the mean that the share of returns
asks for; gaps between visits are log-normal. An arrival is the user whose return is most overdue,
else somebody new: so arrivals stay what they are, and the share holds once a few gaps have
passed, which the warm-up is for. Between two visits a user's history grows (geometric); a few more
behaviours land while the stages of a request go on. With one length for all, histories begin
shorter by the mean growth, so that requests have that length on average.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bench.load.profile import Lengths, Stages, Traffic

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
    visits = _Visits(traffic, rng)
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
    """Who comes next: the user whose return is most overdue, else somebody new."""

    def __init__(self, traffic: Traffic, rng: np.random.Generator) -> None:
        self._traffic = traffic
        self._rng = rng
        self._chances = visit_chances(1.0 / (1.0 - traffic.return_share), traffic.visits_most)
        # Due time, user, visits so far, visits in all, behaviours.
        self._returns: list[tuple[float, int, int, int, int]] = []
        self.users = 0

    def next(self, at_s: float, first_length: Callable[[], int]) -> tuple[int, int, int]:
        """User, visit and behaviours of an arrival."""
        if self._returns and self._returns[0][0] <= at_s:
            _, user, visits, wanted, behaviours = heapq.heappop(self._returns)
            grown = self._rng.geometric(1.0 / self._traffic.append_mean)
            behaviours += int(min(grown, self._traffic.append_most))
        else:
            user, visits, behaviours = self.users, 0, first_length()
            wanted = 1 + int(self._rng.choice(len(self._chances), p=self._chances))
            self.users += 1
        if visits + 1 < wanted:
            due_s = at_s + self._traffic.return_gap_least_s + self._gap_s()
            heapq.heappush(self._returns, (due_s, user, visits + 1, wanted, behaviours))
        return user, visits, behaviours

    def _gap_s(self) -> float:
        traffic = self._traffic
        return float(self._rng.lognormal(np.log(traffic.return_gap_s), traffic.return_gap_spread))


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
