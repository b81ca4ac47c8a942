"""What the core asks for, and what its verbs answer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from services.expander.core.entries import Content


@dataclass(frozen=True, slots=True)
class ProbeLock:
    """See whether a retired owner has let its byte go; answered by LockProbed."""

    owner_index: int


Effect = ProbeLock


class StoreRefusal(Enum):
    """Why a store was not granted."""

    PRESENT = auto()
    NO_SPACE = auto()
    FORGOTTEN = auto()
    BUSY = auto()
    NOT_YET = auto()
    """Others would have to make way that were asked for as often, and lately."""


@dataclass(frozen=True, slots=True)
class Found:
    """An entry, and the pin that holds it."""

    pin_id: int
    generation: int
    content: Content
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LoadGrant:
    """What a pin lets its owner read."""

    blocks: tuple[int, ...]
    generation: int
    content: Content


@dataclass(frozen=True, slots=True)
class StoreGrant:
    """Blocks its owner alone may write, until it says complete."""

    store_id: int
    blocks: tuple[int, ...]
    generation: int


@dataclass(frozen=True, slots=True)
class Occupancy:
    """The core at one moment."""

    published_blocks: int
    staging_blocks: int
    quarantined_blocks: int
    doomed_blocks: int
    """Of entries that nobody can find any more but a pin still holds."""
    free_blocks: int
    entries: int
    pins: int
    owners: int
    tombstones: int
