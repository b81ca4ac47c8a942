"""The shape of a decision core, and what it may ask of its owner.

A core is a function where it can be and a machine where it must remember. It has no
clock, no input or output and no random source of its own: time, events and chance are
arguments, and what should be done comes back as effects.

Source: design, section 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

Event_contra = TypeVar("Event_contra", contravariant=True)
Effect_co = TypeVar("Effect_co", covariant=True)


class Machine(Protocol[Event_contra, Effect_co]):
    """Same state, same event, same now: same effects, always."""

    def handle(self, event: Event_contra, now_ns: int) -> Sequence[Effect_co]:
        """Take one event and say what should be done."""
        ...

    def deadline_ns(self) -> int | None:
        """When `expire` next has work, or None."""
        ...

    def expire(self, now_ns: int) -> Sequence[Effect_co]:
        """Do what has fallen due."""
        ...

    def check(self) -> None:
        """Assert the invariants."""
        ...


class Random(Protocol):
    """The part of random.Random that a core may be handed."""

    def random(self) -> float:
        """Uniform in [0, 1)."""
        ...
