"""How soon a cluster is itself again.

`recovery_s` is the time from a moment (the load's return, or a loss) to the end of the first second after it in which
requests meet both budgets at least 0.99 times as often as they did before, when the second behind that one does as
well. A request counts where it arrived. So it is at least 1; None when the run ends before it comes about.

Source: design, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

RECOVERED = 0.99
"""Of the share before."""
_WINDOW = 10
"""Tenths of a second."""

Tenths = Mapping[int, Sequence[int]]
"""Requests and those that met both budgets, by the tenth of a second of their arrival."""


def met_share(tenths: Tenths, first: int, end: int) -> float:
    """Share of the requests from one tenth of a second to before another that met both budgets; 1 of none."""
    seen = [tenths[tenth] for tenth in range(first, end) if tenth in tenths]
    asked = sum(each[0] for each in seen)
    return sum(each[1] for each in seen) / asked if asked else 1.0


def recovery_s(tenths: Tenths, before_s: tuple[float, float], at_s: float) -> float | None:
    """See the module.

    Args:
        tenths: of the whole run.
        before_s: the time to compare with: begin and end, seconds.
        at_s: from when on, seconds.
    """
    wanted = RECOVERED * met_share(tenths, round(before_s[0] * 10), round(before_s[1] * 10))
    at = round(at_s * 10)
    last = max(tenths, default=at) + 1
    for first in range(at, last - 2 * _WINDOW + 1):
        next_first = first + _WINDOW
        if min(met_share(tenths, begin, begin + _WINDOW) for begin in (first, next_first)) >= wanted:
            return (next_first - at) / 10
    return None
