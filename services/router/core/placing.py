"""What a placement that will be admitted brings to its instance.

Source: design, section 3 (router).
"""

from __future__ import annotations

from services.router.core.binding import Branch, Placement
from services.router.core.events import UserPlaced
from services.router.core.pins import WINDOW_NS_MAX


def user_placed(
    placement: Placement, user_hash: str, *, expected_ns: int, rank_on_psi_ns: int, window_ns: int
) -> UserPlaced:
    """The event that tells of it.

    Args:
        placement: the choice.
        user_hash: whose.
        expected_ns: its full inference, as the trigger foretells.
        rank_on_psi_ns: its rank on psi.
        window_ns: its lifecycle window.
    """
    # Who was here lately brings an append, which is next to nothing.
    is_new = placement.branch in (Branch.SLOT, Branch.LIGHTER)
    return UserPlaced(
        user_hash,
        placement.record.instance_id,
        placement.record.epoch,
        production_ns=max(0, expected_ns - rank_on_psi_ns) if is_new else 0,
        rank_ns=rank_on_psi_ns,
        window_ns=min(window_ns, WINDOW_NS_MAX),
    )
