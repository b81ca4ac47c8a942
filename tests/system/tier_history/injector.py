"""Damages published entries one after the other, and writes down what it did to which."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import NamedTuple

from relaygr.domain.identity import PsiKey
from tests.system.tier_history.contents import TOKENS_OF_PAGE, Bytes, Content, bytes_of, key_of
from tests.system.tier_history.damage import ALONE, blocks_in_use, is_changed, swap_blocks
from tests.system.tier_history.history import Log
from tests.system.tier_history.owner import Pinned, PinningOwner

WEIGHTS = {"flip": 6, "truncate": 3, "reorder": 2, "swap": 2, "stale": 4, "stamp": 2, "padding": 1}


class Damaged(NamedTuple):
    """An entry that was hit."""

    kind: str
    user: str
    generation: int
    has_changed: bool


def older_content(rng: Random, user: str, pinned: Pinned) -> Bytes | None:
    """The bytes of a version of this user that is shorter than what is there."""
    if pinned.token_count <= TOKENS_OF_PAGE:
        return None
    tokens = rng.randrange(TOKENS_OF_PAGE, pinned.token_count, TOKENS_OF_PAGE)
    return bytes_of(Content(user, tokens, 0))


class Injector:
    """Hits each entry at most once, so that no damage undoes another.

    Args:
        owner: pins what is damaged.
        log: where it is written down.
        key_of: of a user.
        older: bytes of an older version of the user's entry that is pinned, None when there is none.
        weights: how often each kind comes.
    """

    def __init__(
        self,
        owner: PinningOwner,
        log: Log,
        key_of: Callable[[str], PsiKey] = key_of,
        older: Callable[[Random, str, Pinned], Bytes | None] = older_content,
        weights: Mapping[str, int] = WEIGHTS,
    ):
        self._owner, self._log = owner, log
        self._key_of, self._older, self._weights = key_of, older, dict(weights)
        self._hit: set[tuple[str, int]] = set()

    async def hit(self, rng: Random, user: str, others: Sequence[str]) -> list[Damaged]:
        """Damage a user's entry in some way, with "swap" one of the others' too; nothing when it is not there."""
        kind = rng.choices(list(self._weights), list(self._weights.values()))[0]
        chosen = [user, rng.choice(others)] if kind == "swap" else [user]
        held = [(user, pinned) for user in chosen if (pinned := await self._pin(self._key_of(user))) is not None]
        try:
            # From here to the last line of the log nothing is awaited: pins are as good as when they were given.
            if len(held) < len(chosen) or len({pinned.segment.boot_id for _, pinned in held}) > 1:
                return []
            return self._damage(kind, rng, held)
        finally:
            for _, pinned in held:
                await self._owner.let_go(pinned)

    async def _pin(self, key: PsiKey) -> Pinned | None:
        pinned = await self._owner.pin(key)
        if pinned is not None and (pinned.segment.boot_id, pinned.target.generation) in self._hit:
            await self._owner.let_go(pinned)
            return None
        return pinned

    def _damage(self, kind: str, rng: Random, held: list[tuple[str, Pinned]]) -> list[Damaged]:
        segment, targets = held[0][1].segment, [pinned.target for _, pinned in held]
        entries = [(segment.boot_id, target.generation) for target in targets]
        if not all(target.is_held(segment) for target in targets) or self._hit.intersection(entries):
            return []  # The pins lapsed, or another task was here first.
        work = self._work(kind, rng, held)
        if work is None:
            return []
        self._hit.update(entries)
        before, begun_ns = [target.read(segment) for target in targets], time.monotonic_ns()
        work()
        done_ns = time.monotonic_ns()
        damaged = []
        for (user, _), target, was in zip(held, targets, before, strict=True):
            has_changed = is_changed(segment, target, was)
            facts = {"begun_ns": begun_ns, "done_ns": done_ns, "has_changed": has_changed}
            is_certain = kind == "stamp" or target.is_held(segment)
            place = {"boot": segment.boot_id, "generation": target.generation, "blocks": target.blocks}
            self._log.begin("injection", kind=kind, is_certain=is_certain, **place, **facts)
            damaged.append(Damaged(kind, user, target.generation, has_changed))
        return damaged

    def _work(self, kind: str, rng: Random, held: list[tuple[str, Pinned]]) -> Callable[[], None] | None:
        """What to do to the segment; None when this kind cannot be done to these entries."""
        (user, first), segment = held[0], held[0][1].segment
        if kind == "stale":
            return (
                None
                if (older := self._older(rng, user, first)) is None
                else lambda: first.target.write(segment, 0, older)
            )
        if kind == "swap":
            left, right = (rng.choice(blocks_in_use(segment, pinned.target)) for _, pinned in held)
            return lambda: swap_blocks(segment, left, right)
        return lambda: ALONE[kind](rng, segment, first.target)
