"""What an instance tells triggers of itself: how many ranks reach it, and how pre-infers fared.

It alone sees them all: a router counts what it sends itself, and a trigger what it admitted itself.

Source: design, section 3 (trigger).
"""

from __future__ import annotations

import math

from relaygr.domain.feedback import Feedback
from services.ranker.core.counters import Counters
from services.ranker.core.effects import Acceptance, DeclineReason

RATE_MEMORY_NS = 10_000_000_000
"""Time over which ranks per second are smoothed; the same as the routers'."""
AGE_LEAST_NS = 1_000_000_000
"""A rate over less than this is mostly chance."""
_PRE_INFERS = (
    *(f"accepted_{how.value.lower()}" for how in Acceptance),
    *(f"declined_{reason.value.lower()}" for reason in DeclineReason),
)


class Observed:
    """Counts since boot that the residency machine does not keep."""

    def __init__(self) -> None:
        self._rate_hz = 0.0
        self._rate_ns = 0
        self._first_ns: int | None = None
        self._productions = 0
        self._production_wait_ns = 0

    def rank_asked(self, now_ns: int) -> None:
        """A rank has come, from whomever, whatever becomes of it."""
        self._rate_hz = self._faded_hz(now_ns) + 1e9 / RATE_MEMORY_NS
        self._rate_ns = now_ns
        if self._first_ns is None:
            self._first_ns = now_ns

    def produced(self, waited_ns: int) -> None:
        """A production has been computed; so long it was not, from the device's being asked on."""
        self._productions += 1
        self._production_wait_ns += max(0, waited_ns)

    def rank_rate_hz(self, now_ns: int) -> float:
        """Ranks a second, smoothed: the newest count most.

        A smoothed sum that began empty is too low until its memory is full, so it is divided by how full it is. Else
        a busy instance would look calm for its first ten seconds, and ranks at risk would not be taken for such.
        """
        if self._first_ns is None:
            return 0.0
        age_ns = max(AGE_LEAST_NS, now_ns - self._first_ns)
        return self._faded_hz(now_ns) / (1.0 - math.exp(-age_ns / RATE_MEMORY_NS))

    def _faded_hz(self, now_ns: int) -> float:
        return self._rate_hz * math.exp(-max(0, now_ns - self._rate_ns) / RATE_MEMORY_NS)

    def feedback(self, counters: Counters | dict[str, int]) -> Feedback:
        """All counts, with those of the residency machine."""
        return Feedback(
            pre_infers=sum(counters[name] for name in _PRE_INFERS),
            declined_footprint=counters["declined_footprint"],
            declined_overloaded=counters["declined_overloaded"],
            relays=counters["rank_with_ticket"],
            relays_lost=counters["rank_with_ticket_lost"],
            productions=self._productions,
            production_wait_ns=self._production_wait_ns,
        )
