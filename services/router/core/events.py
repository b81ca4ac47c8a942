"""What the router's core is told."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from relaygr.domain.instance import InstanceRecord
from services.router.core.slots import SlotTable


class FenceReason(Enum):
    """Why an instance is left alone for now."""

    UNREACHABLE = "UNREACHABLE"
    """The transport failed."""
    SILENT = "SILENT"
    """A call got no answer in its time, and nor did anybody else's."""


@dataclass(frozen=True, slots=True)
class Listed:
    """All instances that discovery shows."""

    records: tuple[InstanceRecord, ...]


@dataclass(frozen=True, slots=True)
class Registered:
    """One instance appeared or changed its record."""

    record: InstanceRecord


@dataclass(frozen=True, slots=True)
class Departed:
    """One instance's registration ended."""

    instance_id: str


@dataclass(frozen=True, slots=True)
class CallFailed:
    """A call to an instance failed in a way that says: it is not there."""

    instance_id: str
    epoch: int
    reason: FenceReason


@dataclass(frozen=True, slots=True)
class HealthAnswered:
    """A health check of an instance ended."""

    instance_id: str
    epoch: int
    is_serving: bool


@dataclass(frozen=True, slots=True)
class TableRead:
    """The slot table of a model, as etcd has it; None when it was deleted."""

    model_key: str
    table: SlotTable | None


@dataclass(frozen=True, slots=True)
class UserPlaced:
    """A user was placed for a ticket; its production will follow, or is there already."""

    user_hash: str
    instance_id: str
    epoch: int
    production_ns: int
    """Device time that its production will probably take; 0 for psi that is probably there."""
    rank_ns: int
    """Device time that its rank will take."""
    window_ns: int
    """Latest time until the rank."""


@dataclass(frozen=True, slots=True)
class PinRead:
    """A pin, as etcd has it."""

    user_hash: str
    instance_id: str
    epoch: int
    expires_ns: int


@dataclass(frozen=True, slots=True)
class PinDropped:
    """A pin ended."""

    user_hash: str


Event = Listed | Registered | Departed | CallFailed | HealthAnswered | TableRead | PinRead | PinDropped | UserPlaced
