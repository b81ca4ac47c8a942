"""What counts of late requests say: intervals of fractions and quantiles, and where a late fraction crosses its limit.

The crossing is fitted as logit(late fraction) = logit(allowed) + slope * log(position / crossing), on a grid of
crossings and slopes. A grid because it is exact enough (1 %), cannot diverge, and gives the same answer every time.
Requests of one probe are late in clusters, so their counts vary more than binomial ones do: by the dispersion, which
repeats at one position show, and the sizes of the bursts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

DISPERSION_PRIOR, DISPERSION_PRIOR_DEGREES = 4.0, 4.0
"""Variance of a late count over its binomial one near the limit, in simulated queues of two servers with 1,000 requests
a probe (1.4 where one service takes most of the limit, 5 where it takes two fifths, 80 where a sixth); weighs as much
as four bursts of late requests."""
SLOPE_PRIOR, SLOPE_PRIOR_SPREAD = 7.0, 0.8
"""Of the logit over log rate, in the same queues (2, 6 and 20); the spread is of its logarithm."""
BURST_GAP = 20
"""Late requests with no more timely ones between them have one cause."""
NEAR = 1.5
"""A probe whose logit is within so much of the limit's tells of the clusters there."""
GUESS_SPREAD = 0.5
"""How far a first guess may be off, as standard deviation of the logarithm."""
CURVATURE = 0.4
"""The true curve is no logistic: a probe's logit may be off by so much of its distance from the limit's logit."""
GRID_STEP, GRID_MARGIN = 0.01, 1.0
SLOPES = np.geomspace(1.5, 60.0, 18)

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Count:
    """One probe: so many of count requests were late at the position (a rate, a length)."""

    position: float
    late: int
    count: int
    bursts: tuple[int, ...] = ()
    """Sizes of the bursts of late requests, if known."""


def wilson_interval(hits: int, count: int, confidence: float = 0.95, dispersion: float = 1.0) -> tuple[float, float]:
    """Of a fraction, after Wilson; dispersion > 1 counts as so many fewer requests. Of nothing: (0, 1)."""
    if not count:
        return 0.0, 1.0
    size, share = count / dispersion, hits / count
    z = normal_quantile(confidence)
    middle = (share + z * z / (2 * size)) / (1 + z * z / size)
    reach = z / (1 + z * z / size) * math.sqrt(share * (1 - share) / size + z * z / (4 * size * size))
    return (0.0 if not hits else max(0.0, middle - reach)), (1.0 if hits == count else min(1.0, middle + reach))


def quantile_interval(
    values: Sequence[float], quantile: float, confidence: float = 0.95
) -> tuple[float, float | None, float | None]:
    """(quantile, low, high) in the values' unit, from order statistics of independent values; no shape is assumed.

    A bound is None where even the least or the greatest value does not reach the confidence.
    """
    assert len(values) and 0 < quantile < 1
    ordered = np.sort(np.asarray(values, float))
    count, tail = len(ordered), (1 - confidence) / 2
    # P(at most k of count values lie below the quantile), k = 0 .. count.
    at_most = np.cumsum(np.exp(_log_binomial(count, quantile)))
    below = int(np.searchsorted(at_most, tail, side="right"))
    above = int(np.searchsorted(at_most, 1 - tail, side="left")) + 1
    low = float(ordered[below - 1]) if below else None
    high = float(ordered[above - 1]) if above <= count else None
    return float(np.quantile(ordered, quantile)), low, high


def normal_quantile(confidence: float) -> float:
    """Standard deviations on either side of the mean that hold so much."""
    return NormalDist().inv_cdf((1 + confidence) / 2)


def bursts_of(is_late: Iterable[bool], gap: int = BURST_GAP) -> tuple[int, ...]:
    """Late requests of each burst, of requests in the order of their arrival."""
    sizes: list[int] = []
    last = -gap - 2
    for index, late in enumerate(is_late):
        if late:
            if index - last - 1 > gap:
                sizes.append(0)
            sizes[-1] += 1
            last = index
    return tuple(sizes)


def dispersion_of(counts: Sequence[Count], allowed: float) -> float:
    """Variance of late counts over the binomial one near the limit, 1 at least.

    From repeats at one position and, if bursts of size S come independently, from E[S^2]/E[S]; drawn to the prior.
    """
    excess, degrees = DISPERSION_PRIOR * DISPERSION_PRIOR_DEGREES, DISPERSION_PRIOR_DEGREES
    near = [one for one in counts if abs(_logit((one.late + 0.5) / (one.count + 1)) - _logit(allowed)) < NEAR]
    for position in {one.position for one in near}:
        repeats = [one for one in near if one.position == position]
        share = sum(one.late for one in repeats) / sum(one.count for one in repeats)
        if len(repeats) > 1 and 0 < share < 1:
            excess += sum((one.late - one.count * share) ** 2 / (one.count * share * (1 - share)) for one in repeats)
            degrees += len(repeats) - 1
    bursts = [size for one in near for size in one.bursts]
    excess += len(bursts) * sum(size**2 for size in bursts) / max(1, sum(bursts))
    degrees += len(bursts)
    return max(1.0, excess / degrees)


class CrossingFit:
    """The fit to some probes around a guess."""

    def __init__(self, guess: float, counts: Sequence[Count], allowed: float):
        self.dispersion = dispersion_of(counts, allowed)
        self._positions = np.array([math.log(one.position) for one in counts])
        self._counts = np.array([one.count for one in counts], float)
        self._lates = np.array([one.late for one in counts], float)
        self._centre, self._limit = math.log(guess), _logit(allowed)
        reached = [self._centre, *self._positions]
        self._crossings = np.arange(min(reached) - GRID_MARGIN, max(reached) + GRID_MARGIN, GRID_STEP)
        self._weights = self._weigh()

    def expected(self) -> float:
        """The crossing to expect."""
        return float(np.exp(self._masses() @ self._crossings))

    def certainty(self, position: float, *, holds: bool) -> float:
        """Probability that the crossing is above the position (it holds), or below."""
        above = float(self._masses()[self._crossings > math.log(position)].sum())
        return above if holds else 1 - above

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Bounds of the crossing.

        From the probabilities themselves: drawing counts anew and fitting those (a parametric bootstrap) covers the
        truth less often where the curve is flat, 82 % against 93 %.
        """
        tail = (1 - confidence) / 2
        low, high = np.exp(np.interp((tail, 1 - tail), np.cumsum(self._masses()), self._crossings))
        return float(low), float(high)

    def _weigh(self) -> Floats:
        """How much of a probe's binomial information counts."""
        shares = (self._lates + 0.5) / (self._counts + 1)
        distance = np.log(shares / (1 - shares)) - self._limit
        return 1 / (self.dispersion + self._counts * shares * (1 - shares) * (CURVATURE * distance) ** 2)

    def _masses(self) -> Floats:
        """Probability of each crossing, over all slopes."""
        logits = self._limit + SLOPES[:, None] * (self._positions - self._crossings[:, None, None])
        found = -np.logaddexp(0, -logits) @ (self._lates * self._weights)
        found -= np.logaddexp(0, logits) @ ((self._counts - self._lates) * self._weights)
        found -= 0.5 * ((self._crossings - self._centre)[:, None] / GUESS_SPREAD) ** 2
        found -= 0.5 * (np.log(SLOPES / SLOPE_PRIOR) / SLOPE_PRIOR_SPREAD) ** 2
        masses = np.exp(found - found.max()).sum(axis=1)
        return masses / masses.sum()


def _log_binomial(count: int, share: float) -> Floats:
    hits = np.arange(count + 1)
    ways = np.array([math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) for k in hits])
    return ways + hits * math.log(share) + (count - hits) * math.log1p(-share)


def _logit(share: float) -> float:
    return math.log(share / (1 - share))
