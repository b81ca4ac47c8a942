"""The highest rate, or the longest history, that holds an objective: asks for probes, looks at their counts, stops.

No clock and no I/O: whoever runs probes asks `next()` where, and reports with `observe()`. A position holds when, over
all its probes, at most one in a hundred requests was late (for the rank's limit and for the end-to-end one) and none
failed. The search moves from the guess until one position holds and a higher one fails, closes in between them until
they are apart by the tolerance, and repeats both ends, because one probe decides little near the limit. Where to probe
comes from a fit to all counts (estimate.py); what is claimed does not: the value is a position that held, below every
one that failed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from bench.load.estimate import Count, CrossingFit

STEP, STEP_GROWTH, STEP_MOST = 1.3, 1.25, 2.0
"""Factor of the first move without a bracket; each further one to the same side is longer."""
MARGIN = 0.2
"""No probe is nearer to an end of the bracket than so much of its width, so each makes it narrower."""


CERTAIN, BELIED = 0.85, 0.3
"""So probable by all probes, an end needs no repeat; so improbable, it needs one more than usual."""


class TooNoisy(Exception):
    """One probe was disturbed time and again: this machine is too busy to measure on."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Counts of one probe."""

    late: int
    """Ranks beyond the rank's limit."""
    count: int
    """Requests counted."""
    errors: int
    end_to_end_late: int
    """Requests beyond the end-to-end limit."""
    is_disturbed: bool
    """Something else took the machine; the counts say nothing."""
    bursts: tuple[int, ...] = ()
    """Sizes of the bursts of late requests (estimate.bursts_of), if known: how far a count of them can be trusted."""

    @property
    def worst(self) -> int:
        """The objective that is missed more often decides."""
        return max(self.late, self.end_to_end_late)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a search found; positions are rates (requests/s) or lengths (tokens)."""

    value: float | None
    """The highest position that held, with none below it failing; None when nothing held."""
    crossing: float | None
    """Where the fit expects the limit, kept between the value and the lowest position that failed."""
    low: float | None
    """With high: where the late fraction crosses its limit, with 95 % confidence, widened to contain the value."""
    high: float | None
    """None when the most that may be asked for held."""
    held_probe_rates: list[float]
    """Of each probe, in the order of probing."""
    failed_probe_rates: list[float]
    probes: int
    is_bounded: bool
    """False when the most that may be asked for held: the value is a lower bound."""
    disturbed_probes: int = 0


@dataclass(slots=True)
class Level:
    """All probes at one position."""

    position: float
    verdicts: list[Verdict] = field(default_factory=list)

    def share(self) -> float:
        """Late over counted, pooled."""
        return self.worst() / self.count()

    def worst(self) -> int:
        """The more often missed of both limits, over all probes."""
        late = sum(verdict.late for verdict in self.verdicts)
        return max(late, sum(verdict.end_to_end_late for verdict in self.verdicts))

    def count(self) -> int:
        """Requests, over all probes."""
        return sum(verdict.count for verdict in self.verdicts)

    def has_errors(self) -> bool:
        """An answer that is no answer breaks the objective alone."""
        return any(verdict.errors for verdict in self.verdicts)


class MonotoneSearch:
    """A position grows, the late fraction with it; see the module."""

    def __init__(
        self,
        guess: float,
        *,
        least: float,
        most: float,
        tolerance: float = 0.06,
        repeats: int = 2,
        probes_max: int = 9,
        disturbed_max: int = 3,
        quantile: float = 0.99,
    ):
        assert 0 < least <= most and tolerance > 0 and repeats > 0 and probes_max > 0 and 0.5 < quantile < 1
        self._least, self._most = least, most
        self._tolerance, self._repeats = tolerance, repeats
        self._probes_max, self._disturbed_max = probes_max, disturbed_max
        self._allowed = 1 - quantile
        self._guess = self._snap(guess)
        self._levels: dict[float, Level] = {}
        self._probes: list[tuple[float, Verdict]] = []
        self._disturbed = self._disturbed_in_a_row = 0

    def next(self) -> float | None:
        """Where to probe; the same until an answer is observed, None when nothing more is needed or allowed."""
        if len(self._probes) >= self._probes_max:
            return None
        if not self._levels:
            return self._guess
        low, high = self._ends()
        if low and high:
            inside = self._between(low.position, high.position)
        else:
            inside = self._beyond(low, high)
        if inside is not None:
            return inside
        unsettled = [end for end in (low, high) if end and not self._is_settled(end)]
        return min(unsettled, key=self._certainty).position if unsettled else None

    def observe(self, rate: float, verdict: Verdict) -> None:
        """A probe's counts; the rate is the one that was asked for, or any other that was probed anyway.

        Raises:
            TooNoisy: disturbed more than disturbed_max times in a row.
        """
        if verdict.is_disturbed:
            self._disturbed += 1
            self._disturbed_in_a_row += 1
            if self._disturbed_in_a_row > self._disturbed_max:
                raise TooNoisy(f"probes at {rate:g} were disturbed {self._disturbed_in_a_row} times in a row")
            return
        assert verdict.count > 0, "a probe that counted nothing"
        self._disturbed_in_a_row = 0
        self._probes.append((rate, verdict))
        self._levels.setdefault(rate, Level(rate)).verdicts.append(verdict)

    def result(self) -> Estimate:
        """What the probes so far support; may be asked at any time."""
        low, high = self._ends()
        value = low.position if low else None
        held = [rate for rate, verdict in self._probes if self._holds(Level(rate, [verdict]))]
        failed = [rate for rate, verdict in self._probes if not self._holds(Level(rate, [verdict]))]
        bounds = self._bounds(value, high.position if high else None)
        is_bounded = high is not None
        return Estimate(
            value, self._crossing(low, high), *bounds, held, failed, len(self._probes), is_bounded, self._disturbed
        )

    def _snap(self, position: float) -> float:
        """The nearest position that may be probed."""
        return min(max(float(f"{position:.4g}"), self._least), self._most)

    def _is_close(self, low: float, high: float) -> bool:
        return high / low <= (1 + self._tolerance) * (1 + 1e-3)

    def _holds(self, level: Level) -> bool:
        return level.share() <= self._allowed + 1e-12 and not level.has_errors()

    def _ends(self) -> tuple[Level | None, Level | None]:
        """The lowest position that fails, and the highest below it that holds."""
        ordered = [self._levels[position] for position in sorted(self._levels)]
        failing = [level for level in ordered if not self._holds(level)]
        high = failing[0] if failing else None
        held = [level for level in ordered if self._holds(level) and (not high or level.position < high.position)]
        return (held[-1] if held else None), high

    def _is_settled(self, end: Level) -> bool:
        """Repeated, or so clear that a repeat would change nothing; one that the other probes belie, once more."""
        if end.has_errors():
            return len(end.verdicts) >= self._repeats
        certainty = self._certainty(end)
        return certainty >= CERTAIN or len(end.verdicts) >= self._repeats + (certainty < BELIED)

    def _certainty(self, end: Level) -> float:
        """Probability, by all probes, that it is on the side of the limit that its own counts say."""
        return self._fit().certainty(end.position, holds=self._holds(end))

    def _between(self, low: float, high: float) -> float | None:
        """A position inside the bracket, None when it is narrow enough."""
        if self._is_close(low, high):
            return None
        reach, expected = 1 + self._tolerance, min(max(self._fit().expected(), low), high)
        if expected / low > high / expected:
            wanted = max(expected / math.sqrt(reach), high / reach if high / expected < reach else low)
        else:
            wanted = min(expected * math.sqrt(reach), low * reach if expected / low < reach else high)
        margin = (high / low) ** MARGIN
        inside = self._snap(min(max(wanted, low * margin), high / margin))
        return inside if low < inside < high else None

    def _beyond(self, low: Level | None, high: Level | None) -> float | None:
        """A position on the side that is not known yet, None at the edge of what may be asked for."""
        expected, reach = self._fit().expected(), 1 + self._tolerance
        step = min(STEP * STEP_GROWTH ** (len(self._levels) - 1), STEP_MOST)
        if low:
            start = low.position
            wanted = start * reach if expected < start * reach else expected * math.sqrt(reach)
            moved = self._snap(min(max(wanted, start * reach), start * step))
            return moved if moved > start else None
        assert high
        start = high.position
        wanted = start / reach if expected > start / reach else expected / math.sqrt(reach)
        moved = self._snap(max(min(wanted, start / reach), start / STEP_MOST))
        return moved if moved < start else None

    def _fit(self) -> CrossingFit:
        return CrossingFit(self._guess, [self._count(rate, verdict) for rate, verdict in self._probes], self._allowed)

    def _count(self, rate: float, verdict: Verdict) -> Count:
        """Errors count as at least twice the late requests allowed, so that the fit takes the position as failed."""
        least = math.ceil(2 * self._allowed * verdict.count) if verdict.errors else 0
        return Count(rate, min(max(verdict.worst, least), verdict.count), verdict.count, verdict.bursts)

    def _crossing(self, low: Level | None, high: Level | None) -> float | None:
        if not low:
            return None
        expected = max(self._fit().expected(), low.position)
        return min(expected, high.position) if high else low.position

    def _bounds(self, value: float | None, failed: float | None) -> tuple[float | None, float | None]:
        if value is None:
            return None, failed
        low, high = self._fit().interval()
        return min(low, value), (None if failed is None else max(high, value))


class RateSearch(MonotoneSearch):
    """The highest rate in requests/s."""


class LengthSearch(MonotoneSearch):
    """The longest history in tokens, of whole multiples of step_tokens."""

    def __init__(self, guess: float, *, least: int, most: int, step_tokens: int = 16, **options: Any):
        self._step_tokens = step_tokens
        assert 0 < step_tokens <= least and least % step_tokens == 0
        most -= most % step_tokens
        super().__init__(guess, least=least, most=most, **options)

    def _snap(self, position: float) -> float:
        whole = self._step_tokens * round(position / self._step_tokens)
        return min(max(whole, self._least), self._most)

    def _is_close(self, low: float, high: float) -> bool:
        return high - low <= self._step_tokens or super()._is_close(low, high)
