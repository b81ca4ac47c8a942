"""Numbers from repeats: the median is the figure, the spread says how far to trust it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Summary:
    """A series of repeats, in its own unit."""

    count: int
    median: float
    least: float
    p25: float
    p75: float
    most: float

    @property
    def spread(self) -> float:
        """Distance of the quartiles as a share of the median."""
        return (self.p75 - self.p25) / self.median if self.median else 0.0

    def to_json(self) -> dict[str, float]:
        """Plain values, four digits that matter."""
        values = {"median": self.median, "min": self.least, "p25": self.p25, "p75": self.p75, "max": self.most}
        return {"count": self.count, **{name: rounded(value) for name, value in values.items()}}


def summary(values: Sequence[float]) -> Summary:
    """Of one value at least."""
    assert len(values), "a summary of nothing"
    least, p25, median, p75, most = (
        float(value) for value in np.quantile(np.asarray(values, float), (0, 0.25, 0.5, 0.75, 1))
    )
    return Summary(len(values), median, least, p25, p75, most)


def rounded(value: float, digits: int = 4) -> float:
    """To so many digits that matter."""
    return float(f"{value:.{digits}g}")
