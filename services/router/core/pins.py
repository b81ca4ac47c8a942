"""Users placed off their slot, each for the window of its psi.

Source: design, section 3 (router), invariant I3.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

WINDOW_NS_MAX = 600_000_000_000
"""No pin lasts longer, whatever its request or its writer's clock said."""


@dataclass(frozen=True, slots=True)
class Pin:
    """Where a user is, until when."""

    instance_id: str
    epoch: int
    expires_ns: int


class Pins:
    """A capped table of pins; when full, the one that expires first makes room."""

    def __init__(self, *, pins_max: int = 65_536) -> None:
        assert pins_max > 0
        self._pins_max = pins_max
        self._pins: dict[str, Pin] = {}
        self._expiries: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._pins)

    def get(self, user_hash: str, now_ns: int) -> Pin | None:
        """The user's pin, if its time has not passed."""
        pin = self._pins.get(user_hash)
        return pin if pin is not None and pin.expires_ns > now_ns else None

    def put(self, user_hash: str, pin: Pin) -> None:
        """Set or move a pin."""
        if user_hash not in self._pins and len(self._pins) >= self._pins_max:
            self._drop_first()
        self._pins[user_hash] = pin
        heapq.heappush(self._expiries, (pin.expires_ns, user_hash))
        if len(self._expiries) > 2 * self._pins_max + 16:
            self._expiries = [(each.expires_ns, name) for name, each in self._pins.items()]
            heapq.heapify(self._expiries)

    def drop(self, user_hash: str) -> None:
        """End a pin; repeatable."""
        self._pins.pop(user_hash, None)

    def deadline_ns(self) -> int | None:
        """When the first pin may expire."""
        return self._expiries[0][0] if self._expiries else None

    def expire(self, now_ns: int) -> None:
        """Drop the pins whose time has passed."""
        while self._expiries and self._expiries[0][0] <= now_ns:
            expires_ns, user_hash = heapq.heappop(self._expiries)
            if user_hash in self._pins and self._pins[user_hash].expires_ns == expires_ns:
                del self._pins[user_hash]

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Of each table, what is in it and the most that may be."""
        return {
            "pins": (len(self._pins), self._pins_max),
            "pins.expiries": (len(self._expiries), 2 * self._pins_max + 16),
        }

    def check(self) -> None:
        """Assert the invariants."""
        assert len(self._pins) <= self._pins_max
        assert len(self._expiries) <= 2 * self._pins_max + 16

    def _drop_first(self) -> None:
        while self._expiries:
            expires_ns, user_hash = heapq.heappop(self._expiries)
            if user_hash in self._pins and self._pins[user_hash].expires_ns == expires_ns:
                del self._pins[user_hash]
                return
