"""What the trigger's core wants done. Each arrival yields exactly one of the first three."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from services.trigger.core.price import Terms
from services.trigger.core.risk import Assessment


class DeclineReason(Enum):
    """Why an at-risk request gets no ticket; names as in the trigger's proto."""

    FOOTPRINT = "FOOTPRINT"
    LOAD = "LOAD"
    TOO_LATE = "TOO_LATE"
    EMPTY_PREFIX = "EMPTY_PREFIX"
    TABLE_FULL = "TABLE_FULL"
    NO_GAIN = "NO_GAIN"
    LOW_VALUE = "LOW_VALUE"


@dataclass(frozen=True, slots=True)
class Admit:
    """Issue a ticket and send the pre-infer."""

    ticket_id: str
    instance_id: str
    epoch: int
    window_ns: int
    """Lifecycle window, from this moment."""
    assessment: Assessment
    terms: Terms | None = None


@dataclass(frozen=True, slots=True)
class Decline:
    """Answer without a ticket although full inference may miss the budget."""

    ticket_id: str
    reason: DeclineReason
    assessment: Assessment
    terms: Terms | None = None
    """When it came down to the bounds."""


@dataclass(frozen=True, slots=True)
class PassBy:
    """Answer without a ticket: full inference fits the budget."""

    ticket_id: str
    assessment: Assessment
    terms: None = None


@dataclass(frozen=True, slots=True)
class EndReservation:
    """A ticket ended or its window closed, and its bytes count no more. Comes exactly once for each admission."""

    ticket_id: str
    instance_id: str
    psi_bytes: int


Effect = Admit | Decline | PassBy | EndReservation
