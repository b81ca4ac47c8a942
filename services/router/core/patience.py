"""How long one instance is waited for before another is tried, and what a rank is expected to cost it.

Source: design, section 3 (router), invariant I6.
"""

from __future__ import annotations

from relaygr.domain.instance import InstanceRecord

ATTEMPTS_MAX = 3
CHECK_AT = 0.5
"""Share of the time left after which a silent instance's health is checked."""
LEAVE_AT = 0.6
"""Share of the time left after which a silent instance is left."""


def expected_rank_ns(
    record: InstanceRecord, behaviours: int, delta_tokens: int, candidates: int, *, has_psi: bool
) -> int:
    """Device time that a rank will probably take, for the view of load only.

    The counts are the caller's and unchecked; beyond the model's limits the ranker refuses them.
    """
    limits = record.limits
    prefix_tokens = min(behaviours, limits.window_behaviours_max) + 1
    delta_tokens = min(delta_tokens, limits.delta_behaviours_max)
    predict = record.cost.rank_ns if has_psi else record.cost.full_ns
    return predict(min(candidates, limits.candidates_max), delta_tokens, prefix_tokens)
