"""Traffic with a shape: a rate that changes from phase to phase, and users of whom few ask often.

Where neither is asked for, the plain population is used as it is.

Source: design, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bench.load.traffic import arrival_times_s
from sim.kernel import SECOND, Kernel
from sim.population import Population
from sim.settings import Settings

TRIES = 8
"""Draws of a user before somebody new is taken."""
SPARE = 6.0
"""Standard deviations of arrivals drawn beyond those expected, so that the last phase is full."""


def population_of(kernel: Kernel, settings: Settings) -> Population:
    """The population that the settings ask for."""
    return ShapedPopulation(kernel, settings) if settings.phases or settings.zipf else Population(kernel, settings)


class ShapedPopulation(Population):
    """Arrivals by phases; with `zipf` above 0, users by Zipf's law instead of visits and gaps.

    A user drawn by Zipf's law asks again after `return_gap_least_s` at the earliest; until then another is drawn. Its
    log grows between two requests as that of a returning user does.
    """

    def __init__(self, kernel: Kernel, settings: Settings) -> None:
        super().__init__(kernel, settings)
        self._zipf = settings.zipf
        self._seen: dict[int, tuple[int, int, int]] = {}
        """By user: when it asked last, its visits and its tokens."""
        if settings.phases:
            self._arrivals_s = phased_times_s(settings)

    def _visitor(self, at_ns: int) -> tuple[int, int, int, int]:
        if not self._zipf:
            return super()._visitor(at_ns)
        user = self._drawn_user(at_ns)
        _, visit, tokens = self._seen.get(user, (0, 0, 0))
        if tokens:
            tokens += min(self._grown(), self._traffic.append_most)
        else:
            tokens = self.first_tokens(user)
            self.newcomers += 1
        self._seen[user] = (at_ns, visit + 1, tokens)
        return user, visit, tokens, 0

    def _drawn_user(self, at_ns: int) -> int:
        rest_ns = int(self._traffic.return_gap_least_s * SECOND)
        for _ in range(TRIES):
            user = zipf_rank(self._random.random(), self._settings.users, self._zipf)
            if user not in self._seen or at_ns - self._seen[user][0] >= rest_ns:
                return user
        # Beyond those that can be drawn: nobody asked as yet.
        return self._settings.users + self.newcomers

    def _grown(self) -> int:
        mean = self._traffic.append_mean
        if mean <= 1:
            return 1
        return 1 + int(math.log(1.0 - self._random.random()) / math.log(1.0 - 1.0 / mean))


def zipf_rank(chance: float, count: int, exponent: float) -> int:
    """Who is drawn by Zipf's law: 0 is drawn most.

    Args:
        chance: in [0, 1).
        count: of those that can be drawn.
        exponent: of the law, above 0; its sum is taken as an integral, so that no table is needed.
    """
    if abs(exponent - 1.0) < 1e-9:
        place = (count + 1.0) ** chance
    else:
        power = 1.0 - exponent
        place = (((count + 1.0) ** power - 1.0) * chance + 1.0) ** (1.0 / power)
    return min(count, int(place)) - 1


def phased_times_s(settings: Settings) -> NDArray[np.float64]:
    """Arrivals, seconds: the profile's process, pressed and stretched by each phase's multiple of the rate."""
    begins_s, effective_s = _knots(settings.phases)
    expected = settings.rate_hz * effective_s[-1]
    count = int(expected + SPARE * math.sqrt(expected)) + 1
    even_s = arrival_times_s(settings.profile.traffic, settings.rate_hz, count, np.random.default_rng(settings.seed))
    found: NDArray[np.float64] = np.interp(even_s[even_s < effective_s[-1]], effective_s, begins_s)
    return found


def _knots(phases: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Where phases meet, in seconds, and in seconds at the plain rate that have passed by then."""
    begins_s, effective_s = [0.0], [0.0]
    for seconds, multiple in phases:
        begins_s.append(begins_s[-1] + seconds)
        effective_s.append(effective_s[-1] + seconds * multiple)
    return begins_s, effective_s
