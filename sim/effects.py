"""A hash of all that happened in a run: when each thing did, and the whole content of every effect.

Effects are taken apart into plain values at once, and hashed some thousand at a time; so the hash of a large run
costs a few microseconds an effect, and says the same in every process: no object's own hash is in it.

Source: design, section 8.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import fields
from enum import Enum
from hashlib import blake2b
from operator import attrgetter
from typing import Any

from sim.chains import LogChain

BATCH = 4096
_PLAIN = frozenset((int, str, bytes, bool, float, type(None)))

Reader = Callable[[Any], Any]


class EffectHash:
    """Takes in events and effects in the order in which they happen.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int) -> None:
        key = str(seed).encode()
        self._of_events = blake2b(key, digest_size=16)
        self._of_effects = blake2b(key, digest_size=16)
        self._effects: list[Any] = []
        self._readers: dict[type, Reader] = {LogChain: attrgetter("user", "tokens", "text")}
        self.events = array("q")
        """Since the last batch: when, and the place in the order in which they were asked for."""

    def note(self, effect: object) -> None:
        """An effect is performed."""
        self._effects.append((type(effect).__name__, self._plain(effect)))
        if len(self._effects) >= BATCH:
            self._of_effects.update(repr(self._effects).encode())
            self._effects.clear()

    def take_events(self) -> None:
        """A batch of events is full."""
        self._of_events.update(self.events.tobytes())
        del self.events[:]

    def value(self) -> int:
        """64 bits that stand for all until now."""
        of_events, of_effects = self._of_events.copy(), self._of_effects.copy()
        of_events.update(self.events.tobytes())
        of_effects.update(repr(self._effects).encode())
        whole = blake2b(of_events.digest() + of_effects.digest(), digest_size=8)
        return int.from_bytes(whole.digest(), "little")

    def _plain(self, value: Any) -> Any:
        """A value as numbers, text and tuples of these."""
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind is tuple:
            # Mostly page numbers, which need no look each.
            return value if not value or type(value[0]) in _PLAIN else tuple(self._plain(each) for each in value)
        read = self._readers.get(kind)
        if read is None:
            read = self._readers[kind] = _reader(kind)
        found = read(value)
        return tuple([self._plain(each) for each in found]) if type(found) is tuple else self._plain(found)


def _reader(kind: Any) -> Reader:
    """What takes values of a type apart."""
    if issubclass(kind, Enum):
        return attrgetter("_value_")
    names = [each.name for each in fields(kind)]
    return attrgetter(*names) if names else _nothing


def _nothing(value: object) -> None:
    """An effect that only has a name."""
