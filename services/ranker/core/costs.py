"""What an extend costs on a device that is at work, from what it was expected to take and took.

The cost model is measured at start, alone. At work the same extend takes longer: other
processes share caches, memory and cores. Whoever predicts by the first figures admits too few and
foretells too short queues, so the model that is published follows what is seen:

    factor = sum of measured / sum of expected over the last jobs, times all coefficients
    relative_error = P99 of |measured / (factor * expected) - 1| over the same jobs

Sums, so that long jobs, which decide, count as much as they take; and errors of the longer half
of the jobs only, since a short append's are large and matter to nobody. A new model is
handed out only when it differs by more than its own noise.

Source: design, section 3 (trigger, ranker).
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from relaygr.domain.cost import CostModel

WINDOW = 512
"""Jobs looked back on: tens of seconds at the rates where it matters."""
EVERY = 64
"""Jobs between two looks."""
FACTOR_LEAST, FACTOR_MOST = 0.5, 4.0
"""Beyond, something else is wrong than the model."""
FACTOR_STEP, ERROR_STEP = 0.04, 0.1
"""Least change that is worth telling everybody."""
ERROR_QUANTILE = 0.99


class CostWatch:
    """Follows one device; all times are of ended jobs, nanoseconds."""

    def __init__(self, measured_alone: CostModel) -> None:
        self._alone = measured_alone
        self._jobs: deque[tuple[int, int]] = deque(maxlen=WINDOW)
        self._unseen = 0
        self._factor = 1.0
        self.published = measured_alone

    @property
    def factor(self) -> float:
        """How many times as long as alone, as published."""
        return self._factor

    def ended(self, expected_ns: int, measured_ns: int) -> CostModel | None:
        """A job has ended; `expected_ns` is by the model measured alone. A model to publish, or None."""
        if expected_ns <= 0:
            return None
        self._jobs.append((expected_ns, measured_ns))
        self._unseen += 1
        if self._unseen < EVERY:
            return None
        self._unseen = 0
        factor = self._factor_now()
        error = self._error(factor)
        is_old = abs(factor / self._factor - 1.0) > FACTOR_STEP
        if not is_old and abs(error - self.published.relative_error) <= ERROR_STEP:
            return None
        self._factor = factor
        self.published = self._alone.scaled(factor, error)
        return self.published

    def reloads_measured(self, fixed_ns: float, byte_ns: float) -> CostModel:
        """Reloads take this from now on, of whatever factor; the model to publish."""
        self._alone = replace(self._alone, reload_fixed_ns=fixed_ns, reload_byte_ns=byte_ns)
        self.published = replace(self.published, reload_fixed_ns=fixed_ns, reload_byte_ns=byte_ns)
        return self.published

    def _factor_now(self) -> float:
        expected = sum(job[0] for job in self._jobs)
        measured = sum(job[1] for job in self._jobs)
        return min(max(measured / expected, FACTOR_LEAST), FACTOR_MOST)

    def _error(self, factor: float) -> float:
        """P99 over the longer half; never less than what was measured alone."""
        longer = sorted(self._jobs, key=lambda job: job[0])[len(self._jobs) // 2 :]
        errors = sorted(abs(measured / (factor * expected) - 1.0) for expected, measured in longer)
        return max(self._alone.relative_error, errors[int(ERROR_QUANTILE * (len(errors) - 1))])
