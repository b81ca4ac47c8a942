"""What the core is told besides the six verbs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LockProbed:
    """Answer to ProbeLock."""

    owner_index: int
    is_held: bool
    """True while the retired owner's process lives and has not let go."""


Event = LockProbed
