"""What an instance counts since its boot and tells whoever admits pre-infers for it.

Counts only grow, so a reader takes what is between two of them, in whatever order and by whatever way they
reach it, and all readers of one instance see the same.

Source: design, section 3 (trigger).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Feedback:
    """Counts of one boot of one instance."""

    pre_infers: int = 0
    """Pre-infers that were answered, accepted or not."""
    declined_footprint: int = 0
    """Of these, declined because pages were short."""
    declined_overloaded: int = 0
    """Of these, declined because a queue or table was full."""
    relays: int = 0
    """Tickets whose first rank was answered."""
    relays_lost: int = 0
    """Of these, with an open ticket, and psi neither there nor on its way."""
    productions: int = 0
    """Pre-infers computed to their end."""
    production_wait_ns: int = 0
    """Time that these spent waiting for the device, nanoseconds, added up."""

    def since(self, earlier: Feedback) -> Feedback:
        """What was counted after `earlier`; nothing where that knows more."""
        return Feedback(
            max(0, self.pre_infers - earlier.pre_infers),
            max(0, self.declined_footprint - earlier.declined_footprint),
            max(0, self.declined_overloaded - earlier.declined_overloaded),
            max(0, self.relays - earlier.relays),
            max(0, self.relays_lost - earlier.relays_lost),
            max(0, self.productions - earlier.productions),
            max(0, self.production_wait_ns - earlier.production_wait_ns),
        )
