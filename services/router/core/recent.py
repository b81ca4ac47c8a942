"""Where users were placed lately: whoever returns within a minute probably finds psi there.

A guess, so nothing of it is shared between routers or kept: when it is wrong, or another router
is asked, psi is reloaded or made again where the user comes to be.

Source: design, section 3 (router), invariant I3.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

RECENT_NS = 60_000_000_000
"""Psi that nobody asked for in a minute has mostly left the device; then any instance of its host is as near."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where, and when last."""

    instance_id: str
    epoch: int
    seen_ns: int


class Recent:
    """A capped table by user hash, the longest unseen first."""

    def __init__(self, *, users_max: int) -> None:
        assert users_max > 0
        self._users_max = users_max
        self._places: OrderedDict[str, Place] = OrderedDict()
        """A plain dict looks at all it has lost from its front before it finds its first."""

    def __len__(self) -> int:
        return len(self._places)

    def get(self, user_hash: str, now_ns: int) -> Place | None:
        """The user's place, unless it is too long ago."""
        place = self._places.get(user_hash)
        return place if place is not None and place.seen_ns + RECENT_NS > now_ns else None

    def put(self, user_hash: str, place: Place) -> None:
        """The user was placed; what is too old makes room, or the longest unseen."""
        self._places.pop(user_hash, None)
        self._places[user_hash] = place
        while self._places:
            oldest, seen = next(iter(self._places.items()))
            if len(self._places) <= self._users_max and seen.seen_ns + RECENT_NS > place.seen_ns:
                break
            del self._places[oldest]

    def drop(self, user_hash: str) -> None:
        """Forget a user; repeatable."""
        self._places.pop(user_hash, None)

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Of the table, what is in it and the most that may be."""
        return {"recent": (len(self._places), self._users_max)}

    def check(self) -> None:
        """Assert the bound."""
        assert len(self._places) <= self._users_max
