"""Users whose psi must not come back for a while.

Source: design, section 4 (forgetting), invariant I3.
"""

from __future__ import annotations

from relaygr.domain.identity import UserKey


class Tombstones:
    """A bounded table. When it is full, everybody is taken for forgotten until the oldest ends.

    Refusing stores costs speed; letting a forgotten user's psi come back is not ours to trade.
    """

    def __init__(self, tombstones_max: int, lifetime_ns: int):
        self._tombstones_max = tombstones_max
        self._lifetime_ns = lifetime_ns
        self._until: dict[UserKey, int] = {}  # in order of end
        self._everybody_until_ns = 0

    def __len__(self) -> int:
        return len(self._until)

    def add(self, user: UserKey, now_ns: int) -> None:
        """Forget a user from now on."""
        self._until.pop(user, None)
        if len(self._until) >= self._tombstones_max:
            oldest = next(iter(self._until))
            self._everybody_until_ns = max(self._everybody_until_ns, self._until.pop(oldest))
        self._until[user] = now_ns + self._lifetime_ns

    def covers(self, user: UserKey, now_ns: int) -> bool:
        """True while stores of this user are refused."""
        return now_ns < self._everybody_until_ns or now_ns < self._until.get(user, 0)

    def expire(self, now_ns: int) -> None:
        """Drop what has ended."""
        while self._until:
            user, until_ns = next(iter(self._until.items()))
            if until_ns > now_ns:
                break
            del self._until[user]

    def deadline_ns(self) -> int | None:
        """When the first one ends."""
        return next(iter(self._until.values()), None)

    def check(self) -> None:
        """Assert the bound and the order."""
        assert len(self._until) <= self._tombstones_max
        ends = list(self._until.values())
        assert ends == sorted(ends)
