"""Who is admitted when capacity is short: those whose relay saves most misses for what it takes.

Requests come one at a time and each is answered at once, so they cannot be sorted. Instead each bound has a price
that rises as it fills, and a request is admitted when the misses it saves pay for its part of each:

    miss_saved >= price(used) * size / typical size        for bytes, and for device time

    price(used) = 0                                                    up to FREE, while there is room
                = least * max(1, e^-1 (e / least)^x), x = (used - FREE) / (1 - FREE), from there on

`miss_saved` is how much less likely the relay makes it that ranking misses its budget: a probability, so at most 1.
`least` is what the risk test lets through at least (1 - quantile). `typical size` is the mean of what is at risk, so
that prices need no setting per model. With everybody alike and sure to miss, nobody is refused before the bound is
full; a request that is barely at risk is admitted until 79 % of a bound is used, one of twice the size that is
sure to miss until 97 %.

Why this price. For an online knapsack with small items whose value per size lies in [L, U], admitting at
z full what is worth at least (U e / L)^z L / e is within a factor 1 + ln(U / L) of the best choice in hindsight, and
no online rule does better (Zhou, Chakrabarty, Lukose: Budget constrained bidding in keyword auctions and online
knapsack problems, 2008). Here L = least and U = 1 for a typical size. What is free goes to whoever comes, which at
worst costs another factor of 1 / (1 - FREE). These are worst cases; they hold for one filling of the bound, while here
it also empties with time, which makes room again for whoever would pay more. Each bound asks for its price by itself:
the dearer one decides.

Source: design, section 3 (trigger).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

FREE = 0.75
"""Part of a bound below which capacity is not short."""
SMOOTHING = 1 / 64
"""Weight of the newest request in a typical size."""


class Typical:
    """Means over recent requests at risk."""

    __slots__ = ("_count", "pre_infer_ns", "psi_bytes", "window_ns")

    def __init__(self) -> None:
        self._count = 0
        self.psi_bytes = 0.0
        self.pre_infer_ns = 0.0
        self.window_ns = 0.0

    def observe(self, psi_bytes: int, pre_infer_ns: int, window_ns: int) -> None:
        """Count one request at risk, admitted or not."""
        self._count += 1
        weight = max(SMOOTHING, 1.0 / self._count)
        self.psi_bytes += weight * (psi_bytes - self.psi_bytes)
        self.pre_infer_ns += weight * (pre_infer_ns - self.pre_infer_ns)
        self.window_ns += weight * (window_ns - self.window_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The numbers on which a decision at the bounds rests."""

    footprint_bound_bytes: int
    load_burst_ns: int
    load_share: float
    """Device nanoseconds a nanosecond that drain from the debt."""
    footprint_used: float
    """Part of the bound in use before this request, 0 to 1."""
    load_used: float
    footprint_scale: float
    """Part of the bound that feedback leaves."""
    load_scale: float
    miss_saved: float
    price: float
    """What miss_saved must reach."""

    @property
    def is_worth_it(self) -> bool:
        """True when the misses saved pay for what is left of the dearer bound."""
        return self.miss_saved >= self.price


def used_of(held: int, bound: int) -> float:
    """Part of a bound in use, at most 1; a bound of nothing is full."""
    return min(1.0, held / bound) if bound > 0 else 1.0


def price(used: float, least: float) -> float:
    """Misses to be saved by a request of typical size, in [0, 1].

    Args:
        used: part of the bound in use, 0 to 1.
        least: what a request at risk saves at least, above 0.
    """
    if used < FREE:
        return 0.0
    filled = (used - FREE) / (1.0 - FREE)
    return min(1.0, least * max(1.0, math.exp(filled * (1.0 - math.log(least)) - 1.0)))
