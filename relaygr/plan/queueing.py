"""Waiting at one device, ranks before productions.

Ranks arrive at one instance at random and are served in order: with load rho and second moment of service m2, the mean
wait is W = rate * m2 / (2 (1 - rho)) (Pollaczek-Khinchine), and its tail is taken as

    P(wait > t) = rho exp(-rho t / W).

Productions run in what ranks leave: one of work p takes p / (1 - rho) and waits for those before it, by the same
formula over the stretched times. Requests are sent to the lighter instance where they may be, so real waits are
shorter; services of an instance are taken at the cost model's error where a single one decides.

Source: design, section 3 (trigger): the same formula tells who is at risk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf, log


@dataclass(frozen=True, slots=True)
class Line:
    """One queue."""

    load: float
    mean_ns: float
    """Of the wait; infinite when the load is 1 or more."""

    def tail(self, wait_ns: float) -> float:
        """P(wait > t)."""
        if self.load >= 1.0:
            return 1.0
        if wait_ns < 0.0:
            return 1.0
        if self.mean_ns <= 0.0:
            return 0.0
        return self.load * exp(-self.load * wait_ns / self.mean_ns)

    def quantile_ns(self, quantile: float) -> float:
        """The wait that so many requests stay below."""
        if self.load >= 1.0:
            return inf
        if self.load <= 1.0 - quantile:
            return 0.0
        return self.mean_ns / self.load * log(self.load / (1.0 - quantile))


def line(rate_hz: float, services_ns: Sequence[tuple[float, float]]) -> Line:
    """Of services (share, nanoseconds); shares add up to what part of the requests comes at all."""
    per_ns = rate_hz * 1e-9
    load = per_ns * sum(share * service_ns for share, service_ns in services_ns)
    square = per_ns * sum(share * service_ns**2 for share, service_ns in services_ns)
    return Line(load, square / (2.0 * (1.0 - load)) if load < 1.0 else inf)
