"""What the trigger's core is told. Times are monotonic nanoseconds unless named otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from relaygr.domain.cost import CostModel
from relaygr.domain.feedback import Feedback


@dataclass(frozen=True, slots=True)
class InstanceView:
    """The instance a user is bound to, as the router last saw it."""

    instance_id: str
    epoch: int
    cost: CostModel
    device_budget_bytes: int
    backlog_ns: int
    """Predicted device time queued there now."""
    rank_rate_hz: float
    """Ranks a second that reach it from everywhere, smoothed."""
    trigger_count: int
    """Triggers that share its device, at least 1."""
    feedback: Feedback | None = None
    """How pre-infers have fared there, as it last told; None when it has not."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What one request would ask of a device, and when."""

    prefix_tokens: int
    """User token and behaviours; 1 means an empty history."""
    delta_tokens: int
    candidate_count: int
    rank_budget_ns: int
    """Time ranking may take at the SLO's quantile."""
    time_to_rank_ns: int
    """Expected time from now to the rank."""
    window_ns: int
    """Latest time from now to the rank: the lifecycle window."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """A request was announced and its user's instance is known."""

    ticket_id: str
    """The id its ticket gets if it is admitted."""
    demand: Demand
    instance: InstanceView


class Outcome(Enum):
    """What became of a pre-infer that was sent."""

    STARTED = "started"
    RESIDENT = "resident"
    """Psi was there already: no device time is spent."""
    JOINED = "joined"
    """Another request's production of the same psi serves this one too."""
    DECLINED = "declined"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class PreInferAnswered:
    """The instance, or the lack of one, answered. Comes exactly once for each admission."""

    ticket_id: str
    outcome: Outcome
    production_ns: int | None = None
    """Expected device time of what was started, as the instance says; None when it does not say."""


@dataclass(frozen=True, slots=True)
class TicketsEnded:
    """Ranks with these tickets were answered, or they were given back: nothing is held for them any more.

    Ids that are unknown, or known to have ended, mean nothing.
    """

    ticket_ids: tuple[str, ...]


Event = Arrived | PreInferAnswered | TicketsEnded
