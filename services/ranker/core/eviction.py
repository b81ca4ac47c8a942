"""Which psi to give up when space is needed. Policy only: who may be evicted is decided elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class EvictionPolicy(Protocol):
    """Told which entries nothing holds; orders them from the first to go to the last."""

    def add(self, entry_id: int) -> None:
        """An entry came to be held by nothing."""
        ...

    def remove(self, entry_id: int) -> None:
        """An entry is held again, or gone."""
        ...

    def victims(self) -> Iterator[int]:
        """Entry ids, first to go first. Not changed while it is iterated."""
        ...


class LeastRecentlyHeld:
    """Evicts what was let go longest ago."""

    def __init__(self) -> None:
        self._idle: dict[int, None] = {}

    def add(self, entry_id: int) -> None:
        """Append: it was held until now."""
        assert entry_id not in self._idle
        self._idle[entry_id] = None

    def remove(self, entry_id: int) -> None:
        """Take out."""
        del self._idle[entry_id]

    def victims(self) -> Iterator[int]:
        """In the order of being let go."""
        return iter(self._idle)
