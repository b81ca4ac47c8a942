"""Watches a ranker's psi: one that rests nowhere for too long is a failure that tells its history.

Source: design, section 5, invariants I6, I7.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from services.ranker.core.books import Books
from services.ranker.core.lifecycle import PsiState
from services.ranker.core.residency import Residency

STUCK_NS = 10_000_000_000
"""Nothing takes so long: chunks take milliseconds, a stopped ranker wakes up after three seconds."""
HISTORY_MAX = 40


class SoakFailed(AssertionError):
    """Something that must not happen has happened; the text says what, and what came before it."""


def books_of(residency: Residency) -> Books:
    """The machine's tables. A soak looks into them: what it asks about is no part of any answer."""
    return residency._books


@dataclass(slots=True)
class _Seen:
    """One entry, as it was seen last."""

    progress: tuple[PsiState, int | None, int]
    since_ns: int
    history: deque[str] = field(default_factory=lambda: deque(maxlen=HISTORY_MAX))


class Watch:
    """Of one ranker's entries; as many as there are."""

    def __init__(self, name: str, residency: Residency) -> None:
        self._name = name
        self._entries = books_of(residency).entries
        self._seen: dict[int, _Seen] = {}

    def note(self, event: str, now_ns: int) -> None:
        """After an event: whose state, job or tokens have changed."""
        by_id = self._entries.by_id
        for entry_id, entry in by_id.items():
            progress = entry.state, entry.job_id, entry.tokens
            seen = self._seen.get(entry_id)
            if seen is None:
                seen = self._seen[entry_id] = _Seen(progress, now_ns)
            elif seen.progress == progress:
                continue
            seen.progress, seen.since_ns = progress, now_ns
            seen.history.append(f"{now_ns / 1e9:.6f} s {event}: {entry.state.name}, {entry.tokens} tokens")
        if len(self._seen) > len(by_id):
            self._seen = {entry_id: seen for entry_id, seen in self._seen.items() if entry_id in by_id}

    def look(self, now_ns: int) -> None:
        """Nothing is stuck.

        Raises:
            SoakFailed: with the history of the entry that is.
        """
        for entry_id, seen in self._seen.items():
            state, job_id, tokens = seen.progress
            if state != PsiState.RESIDENT and now_ns - seen.since_ns > STUCK_NS:
                stuck = f"entry {entry_id} of {self._name} is {state.name} with job {job_id} and {tokens} tokens"
                raise SoakFailed("\n  ".join((f"{stuck} since {seen.since_ns / 1e9:.6f} s", *seen.history)))
