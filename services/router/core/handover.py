"""Slots that changed their owner and move to it bit by bit: who joins is cold, and must not get all at once.

Theory of operation. A slot's users have their psi where the slot was: on its device, or in its host's DRAM. When the
slot goes to a joiner, its old owner is still there and keeps a share of its users that shrinks with time; each user
moves once, at a moment that its own hash decides, the same on all routers. Where the old owner is gone, drains or is
fenced, nothing is held back, and the slot moves at once.

Source: design, section 3 (router): joins and leaves.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from relaygr.domain.identity import UserKey

FIRST_SHARE = 0.1
"""Of a slot's users, moved at once: an instance that gets nothing would never warm up."""


@dataclass(frozen=True, slots=True)
class _Move:
    before: str
    since_ns: int


class Handovers:
    """The slots under way, by model.

    Args:
        warm_up_ns: how long a slot takes to move; 0 moves it at once.
    """

    def __init__(self, *, warm_up_ns: int) -> None:
        assert warm_up_ns >= 0
        self._warm_up_ns = warm_up_ns
        self._moves: dict[str, dict[int, _Move]] = {}

    def __len__(self) -> int:
        """Slots under way, or lately."""
        return sum(map(len, self._moves.values()))

    def begin(self, model_key: str, before: tuple[str, ...], after: tuple[str, ...], now_ns: int) -> None:
        """A model's slots have other owners now."""
        known = self._moves.pop(model_key, {})
        moves = {slot: move for slot, move in known.items() if self._share(move, now_ns) < 1}
        for slot, (old, new) in enumerate(zip(before, after, strict=True)):
            if old != new:
                # Moved on before it was through: those who had not left yet still are where they were.
                moves.setdefault(slot, _Move(old, now_ns))
            if slot in moves and moves[slot].before == new:
                del moves[slot]
        if moves and self._warm_up_ns:
            self._moves[model_key] = moves

    def drop(self, model_key: str) -> None:
        """The model has no table any more; repeatable."""
        self._moves.pop(model_key, None)

    def holder(self, model_key: str, slot: int, user: UserKey, now_ns: int) -> str | None:
        """The owner before, while this user is still its own; None when the slot's owner has the user."""
        move = self._moves.get(model_key, {}).get(slot)
        if move is None:
            return None
        share = self._share(move, now_ns)
        return move.before if share < 1 and turn_of(user) >= share else None

    def _share(self, move: _Move, now_ns: int) -> float:
        """Of the slot's users, those that have moved."""
        return FIRST_SHARE + (1 - FIRST_SHARE) * max(0, now_ns - move.since_ns) / max(1, self._warm_up_ns)


def turn_of(user: UserKey) -> float:
    """When a user moves, as a share of the whole, in [0, 1); has nothing to do with its slot."""
    text = f"{user.tenant}\x00{user.user}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=6, person=b"handover").digest(), "little") / 2**48
