"""What the router's core wants done."""

from __future__ import annotations

from dataclasses import dataclass

from services.router.core.events import FenceReason


@dataclass(frozen=True, slots=True)
class StartProbe:
    """Check the health of a fenced instance until it answers, first after `delay_ns`."""

    instance_id: str
    epoch: int
    address: str
    reason: FenceReason
    delay_ns: int


@dataclass(frozen=True, slots=True)
class ConfirmLoss:
    """Check the health of an instance once: discovery says that it is gone, with too many others."""

    instance_id: str
    epoch: int
    address: str


@dataclass(frozen=True, slots=True)
class ForgetPeer:
    """Nobody is at this address any more: close what is open to it."""

    instance_id: str
    epoch: int
    address: str


@dataclass(frozen=True, slots=True)
class ChangeMembers:
    """The instances changed: whoever plans slot tables should look again."""


@dataclass(frozen=True, slots=True)
class PinUser:
    """Remember where a user placed off its slot is to be found, here and in the other routers. Part of a placement."""

    user_hash: str
    instance_id: str
    epoch: int
    window_ns: int


Effect = StartProbe | ConfirmLoss | ForgetPeer | ChangeMembers
