"""Who writes down, where readers and writers see it, which generation owns a block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Stamps(Protocol):
    """Hears of every change of hands as it happens; the segment's table of generations, as a rule.

    A block carries a generation's stamp exactly while that generation may be written, or found: from before its grant
    until the entry is evicted, replaced, too old, or known to be bad, or its user is forgotten. So whoever finds the
    stamps of a grant in place after a copy needs no other word that it holds.
    """

    def stamp(self, blocks: Sequence[int], generation: int) -> None:
        """These blocks are about to be granted."""

    def clear(self, blocks: Sequence[int]) -> None:
        """Nobody may use these blocks any more under what they were granted for."""


class Unstamped:
    """Writes nothing down."""

    def stamp(self, blocks: Sequence[int], generation: int) -> None:
        """Nothing."""

    def clear(self, blocks: Sequence[int]) -> None:
        """Nothing."""
