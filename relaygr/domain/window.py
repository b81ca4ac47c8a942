"""Which behaviours of a long log the prefix covers.

The window's start, the anchor, moves in large steps only: between two steps a user's new
behaviours extend the same prefix (an append), and a moved anchor is a new identity.

Source: design, section 4, condition 4.
"""

from __future__ import annotations

from relaygr.domain.identity import ModelLimits


def anchor_of(log_count: int, limits: ModelLimits) -> int:
    """Index of the first behaviour of the prefix, for a log of `log_count` behaviours."""
    excess = log_count - limits.window_behaviours_max
    if excess <= 0:
        return 0
    step = limits.window_step_behaviours
    return -(-excess // step) * step
