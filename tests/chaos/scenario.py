"""What a scenario is: a fault, on what, for how long, and what must hold. Pure descriptions; nothing here acts.

Source: design, section 5, invariants I3, I5, I6, I7, I8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Kind(Enum):
    """What is done."""

    KILL = "SIGKILL, then a start under the same address"
    STOP = "SIGSTOP, then SIGCONT"
    SLOW = "stopped for most of each tenth of a second"
    RECONFIGURE = "SIGTERM, a start with other settings, and later back"
    ROLL = "SIGTERM and start, one after another"
    UPGRADE = "the same, with another version of the model; then back"
    DRAIN = "the Drain call, and later its undoing"
    REVOKE = "the lease of its registration is revoked"
    COMPACT = "cut off from etcd while its peers come and go and etcd forgets the history"
    LEADER = "SIGKILL of the etcd member that leads, then a start"
    CUT = "a connection that carries nothing"
    DELAY = "a connection that carries all, late"
    RESET = "a connection that is reset, again and again"
    NO_DISK = "no file can grow any more"
    NO_MEMORY = "SIGTERM, and a start that finds no room in shared memory"


class Ending(Enum):
    """Until when requests may fail."""

    NEVER = "no request fails"
    FENCE = "none later than one call's deadline after the fault"
    RETURN = "none later than one call's deadline after the fault's end"


@dataclass(frozen=True, slots=True, kw_only=True)
class Holds:
    """What must hold beside that every score is right, every request ends and nothing leaks."""

    errors: Ending = Ending.NEVER
    is_only_in_flight: bool = False
    """No more requests fail than were being ranked when the fault came."""
    recovery_s_max: float | None = None
    """From the fault's end, or from the fault when what is gone stays away."""
    is_fenced: bool = False
    """Recovery counts from the fault, though it ends: by then the others have taken over."""
    tier_back: str = ""
    """Some request is ranked from this tier within `tier_back_s` of the fault's end."""
    tier_back_s: float = 5.0
    versions_after: frozenset[str] = frozenset()
    """Versions of the model whose scores answers must have, once the fault has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One fault."""

    name: str
    kind: Kind
    on: tuple[str, ...]
    """Processes by name; of a connection, the caller and whom it calls."""
    lasts_s: float = 4.0
    """From the harm, once it is done, until its end begins; what a process needs to come up again is added."""
    stays_away: bool = False
    """What is harmed comes back when the load is over."""
    stage: str = "plain"
    """Which cluster; see stage.py."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Of RECONFIGURE: by name of the field."""
    delay_ms: float = 0.0
    """Of DELAY."""
    holds: Holds = field(default_factory=Holds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long the phases are, how fast requests come, and how patient callers are."""

    rate_hz: float = 20.0
    warm_s: float = 6.0
    """Of load before the first scenario of a cluster."""
    before_s: float = 5.0
    after_s: float = 8.0
    settle_least_s: float = 6.0
    """What only telemetry tells is up to five seconds old."""
    settle_most_s: float = 30.0
    arrive_timeout_ms: float = 200.0
    rank_timeout_ms: float = 1000.0
    """One call's deadline."""
