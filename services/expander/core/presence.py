"""Who is told which keys can be found."""

from __future__ import annotations

from typing import Protocol

from relaygr.domain.identity import PsiKey


class Presence(Protocol):
    """Hears of every entry once when it comes and once when it goes; the segment's filter, as a rule."""

    def add(self, key: PsiKey) -> None:
        """An entry of this key is about to become visible, perhaps in place of another one."""

    def remove(self, key: PsiKey) -> None:
        """An entry of this key is not visible any more."""


class Unwatched:
    """Tells nobody."""

    def add(self, key: PsiKey) -> None:
        """Nothing."""

    def remove(self, key: PsiKey) -> None:
        """Nothing."""
