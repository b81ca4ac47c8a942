"""What is asked of a deployment, read from a command line's words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf, log
from pathlib import Path
from statistics import NormalDist

ATOMS = 48
"""Lengths that stand for a distribution, equally likely: more change a plan by less than a percent."""
NORMAL = NormalDist()


class PlanError(ValueError):
    """An option that cannot be used; the text begins with its name."""

    def __init__(self, option: str, text: str) -> None:
        super().__init__(f"{option}: {text}")
        self.option = option


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Load, objective and reuse."""

    rate_hz: float
    lengths: tuple[int, ...]
    """Tokens, equally likely, ascending."""
    candidates: int
    slo_ms: float
    """Ranking's budget."""
    quantile: float
    """At which it holds, in (0, 1)."""
    time_to_rank_ms: float
    """From a request's arrival until its ranking is due."""
    overhead_ms: float
    """Of a rank beside its device."""
    return_share: float
    """Of the requests, those whose user came before."""
    gap_s: float
    """Between two requests of a user, median."""
    gap_spread: float
    """Standard deviation of its logarithm."""
    append_tokens: int = 8
    """That a user's history grew by when it returns."""

    def gap_share(self, seconds: float) -> float:
        """Share of the gaps that are shorter."""
        if seconds <= 0.0:
            return 0.0
        if seconds == inf:
            return 1.0
        return NORMAL.cdf(log(seconds / self.gap_s) / self.gap_spread)

    def gap_quantile_s(self, share: float) -> float:
        """The gap that so many are shorter than."""
        return self.gap_s * exp(self.gap_spread * NORMAL.inv_cdf(share))


def lengths_of(text: str) -> tuple[int, ...]:
    """From `lognormal:MEDIAN,SIGMA,MAX`, a number, or a file with a length on each line.

    Raises:
        PlanError: names --length-distribution.
    """
    option = "--length-distribution"
    try:
        if text.startswith("lognormal:"):
            median, sigma, most = (float(word) for word in text.removeprefix("lognormal:").split(","))
            values = _lognormal(median, sigma, most)
        elif text.isdigit():
            values = [float(text)]
        else:
            values = _reduced([float(line) for line in Path(text).read_text().split()])
    except OSError as error:
        raise PlanError(
            option, f"{text!r} is no file, and not lognormal:MEDIAN,SIGMA,MAX ({error.strerror})"
        ) from error
    except ValueError as error:
        raise PlanError(option, f"{text!r}: {error}; wanted lognormal:MEDIAN,SIGMA,MAX or a file of lengths") from error
    if not values or min(values) < 1 or max(values) > 1 << 20:
        raise PlanError(option, "lengths must be from 1 to 1048576 tokens")
    return tuple(round(value) for value in values)


def _lognormal(median: float, sigma: float, most: float) -> list[float]:
    if not (median >= 1 and sigma >= 0 and most >= 1):
        raise ValueError("median and maximum must be at least 1 and sigma at least 0")
    places = [(index + 0.5) / ATOMS for index in range(ATOMS)]
    return [min(most, max(1.0, median * exp(sigma * NORMAL.inv_cdf(place)))) for place in places]


def _reduced(values: Sequence[float]) -> list[float]:
    """Quantiles of what a file holds."""
    ordered = sorted(values)
    if len(ordered) <= ATOMS:
        return ordered
    return [ordered[int((index + 0.5) / ATOMS * len(ordered))] for index in range(ATOMS)]
