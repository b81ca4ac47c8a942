"""Who asks when, drawn as the load generator draws it, but one request at a time.

The same arrival processes, visits and gaps as `bench.load.traffic`, without a list of all requests: only those who
will come back are remembered. How long a user's history is when it is first seen follows from the user's number,
so ten million users take no memory.
"""

from __future__ import annotations

import heapq
from bisect import bisect
from itertools import accumulate
from math import exp, log
from statistics import NormalDist
from typing import Protocol

import numpy as np

from bench.load.traffic import arrival_times_s, visit_chances
from relaygr.domain.identity import TENANT_DEFAULT, UserKey
from relaygr.domain.window import anchor_of
from services.router.core.binding import Subject
from sim.chains import LogChain
from sim.kernel import MS, SECOND, Kernel
from sim.messages import Request
from sim.settings import Settings

_STRIDE = 7_368_787
"""A prime, so that users taken in turn are spread over all there are."""
SAME_UNTIL = 256
"""A rewritten log stays as it was in these tokens: whole pages."""
REWRITTEN_EVERY = 4
"""Of the times that a user is taken anew, which happens where there are few."""
_GOLDEN = 0x9E3779B97F4A7C15
_WORD = 1 << 64


class Source(Protocol):
    """Where requests come from."""

    def next(self) -> Request | None:
        """The next request, in the order of arrival; None when there are no more."""
        ...


class Population:
    """Draws requests in the order of their arrival."""

    def __init__(self, kernel: Kernel, settings: Settings) -> None:
        self._settings = settings
        self._traffic = settings.profile.traffic
        self._lengths = settings.lengths or settings.profile.lengths
        self._random = kernel.chance("population")
        count = max(1, int(settings.rate_hz * settings.seconds))
        generator = np.random.default_rng(settings.seed)
        self._arrivals_s = arrival_times_s(self._traffic, settings.rate_hz, count, generator)
        chances = visit_chances(1.0 / (1.0 - self._traffic.return_share), self._traffic.visits_most)
        self._visits = list(accumulate(chances.tolist()))
        self._returns: list[tuple[int, int, int, int, int, int]] = []
        """Due time, user, visits so far, visits in all, tokens, rewrites."""
        self._normal = NormalDist()
        self._drawn = 0
        self.newcomers = 0

    def next(self) -> Request | None:
        """The next request; None when there are no more."""
        if self._drawn >= len(self._arrivals_s):
            return None
        at_ns = int(self._arrivals_s[self._drawn] * SECOND)
        user, visit, tokens, text = self._visitor(at_ns)
        stages = self._settings.profile.stages
        due_ns = at_ns + self._stage_ns(stages.retrieval_ms) + self._stage_ns(stages.pre_processing_ms)
        anchor = anchor_of(tokens - 1, self._settings.limits)
        request = Request(
            self._drawn,
            user,
            Subject(UserKey(TENANT_DEFAULT, str(user)), str(user)),
            at_ns,
            due_ns,
            int(self._random.random() * (self._traffic.delta_most + 1)),
            self._traffic.candidates,
            visit,
            LogChain(user, tokens - anchor, text, SAME_UNTIL),
            anchor,
        )
        self._drawn += 1
        return request

    def first_tokens(self, user: int) -> int:
        """Tokens of a user's history when it is first seen."""
        lengths, word = self._lengths, (user * _GOLDEN) % _WORD
        word = ((word ^ (word >> 29)) * _GOLDEN) % _WORD
        spread = self._normal.inv_cdf((word + 1) / (_WORD + 2))
        tokens = lengths.median_tokens * exp(lengths.spread * spread)
        return int(min(max(tokens, lengths.least_tokens), lengths.most_tokens))

    def _visitor(self, at_ns: int) -> tuple[int, int, int, int]:
        """User, visits so far, tokens, and how often the log was rewritten."""
        traffic, draw = self._traffic, self._random.random
        if self._returns and self._returns[0][0] <= at_ns:
            _, user, visit, wanted, tokens, text = heapq.heappop(self._returns)
            is_one = traffic.append_mean <= 1
            grown = 1 if is_one else 1 + int(log(1.0 - draw()) / log(1.0 - 1.0 / traffic.append_mean))
            tokens += min(grown, traffic.append_most)
        else:
            times, place = divmod(self.newcomers, self._settings.users)
            text = times // REWRITTEN_EVERY
            user, visit = (place * _STRIDE) % self._settings.users, 0
            tokens = self.first_tokens(user)
            wanted = 1 + min(bisect(self._visits, draw()), len(self._visits) - 1)
            self.newcomers += 1
        if visit + 1 < wanted:
            gap_s = traffic.return_gap_least_s + traffic.return_gap_s * exp(
                traffic.return_gap_spread * self._random.gauss(0.0, 1.0)
            )
            heapq.heappush(self._returns, (at_ns + int(gap_s * SECOND), user, visit + 1, wanted, tokens, text))
        return user, visit, tokens, text

    def _stage_ns(self, mean_ms: float) -> int:
        spread = self._settings.profile.stages.spread
        if not spread:
            return int(mean_ms * MS)
        shape = 1.0 / spread**2
        return int(self._random.gammavariate(shape, mean_ms / shape) * MS)
