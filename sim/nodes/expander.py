"""An expander: the production tiering core, and what only it can see of its writers.

Verbs are answered at once, as in the service; the callers of one host reach it without the network.

Source: design, section 3 (expander), invariants I5, I7.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from relaygr.domain.identity import PsiKey, UserKey
from services.expander.core.effects import Effect, Found, ProbeLock, StoreGrant, StoreRefusal
from services.expander.core.entries import Content
from services.expander.core.events import LockProbed
from services.expander.core.tiering import Tiering
from sim.checks import Checks
from sim.kernel import Kernel
from sim.memory import Content as Written
from sim.nodes.process import Process, Timer
from sim.settings import Settings
from sim.violations import Violation


class Present:
    """The presence filter, without false positives."""

    def __init__(self) -> None:
        self._keys: Counter[PsiKey] = Counter()

    def add(self, key: PsiKey) -> None:
        """An entry of this key becomes visible."""
        self._keys[key] += 1

    def remove(self, key: PsiKey) -> None:
        """One is not visible any more."""
        self._keys[key] -= 1
        if not self._keys[key]:
            del self._keys[key]

    def may_hold(self, key: PsiKey) -> bool:
        """False when a lookup would find nothing."""
        return key in self._keys


class Expander(Process):
    """One boot of one expander."""

    def __init__(
        self, kernel: Kernel, name: str, host: str, *, boot: int, settings: Settings, checks: Checks, offset_ns: int = 0
    ) -> None:
        super().__init__(kernel, name, host, offset_ns=offset_ns)
        self.boot = boot
        self.presence = Present()
        self.core = Tiering(settings.tiering, self.presence)
        self._checks = checks
        self._timer = Timer(self, self.core, self._expire)
        self.owner_lives: dict[int, Callable[[], bool]] = {}
        """By owner index: whether the process that was given it may still write."""
        self._writers: dict[int, Any] = {}
        """Blocks that a living process may be writing, by whom."""
        self.written: dict[int, tuple[Written, ...]] = {}
        """By generation, what its blocks hold."""

    def attach(self, owner: str, epoch: int, may_write: Callable[[], bool]) -> int | None:
        """Join or renew."""
        index = self.core.attach(owner, epoch, self.clock_ns())
        if index is not None:
            self.owner_lives[index] = may_write
        self._settled()
        return index

    def lookup(self, owner: str, index: int, key: PsiKey) -> Found | None:
        """Find and pin; None also for a caller that is not attached."""
        if not self._is_current(owner, index):
            return None
        found = self.core.lookup(index, key, self.clock_ns())
        self._settled()
        return found

    def complete_load(self, owner: str, index: int, pin_id: int) -> bool:
        """End a pin; True when the bytes may be used."""
        if not self._is_current(owner, index):
            return False
        held = self.core.complete_load(index, pin_id, True, self.clock_ns())
        self._settled()
        return held

    def prepare_store(
        self, owner: str, index: int, writer: Any, key: PsiKey, tokens: int, digest: bytes, length_bytes: int
    ) -> StoreGrant | StoreRefusal | None:
        """Blocks that this writer alone may write.

        Raises:
            Violation: somebody else may still write into them.
        """
        if not self._is_current(owner, index):
            return None
        grant = self.core.prepare_store(index, key, tokens, digest, length_bytes, self.clock_ns())
        if isinstance(grant, StoreGrant):
            self._hold_writers(grant.blocks, writer)
        self._settled()
        return grant

    def complete_store(
        self, owner: str, index: int, grant: StoreGrant, writer: Any, content: Content, written: tuple[Written, ...]
    ) -> bool:
        """The writer writes no more."""
        self.ended(grant.blocks, writer)
        if not self._is_current(owner, index):
            return False
        if written:
            self.written[grant.generation] = written
        is_stored = self.core.complete_store(index, grant.store_id, True, content, self.clock_ns())
        self._settled()
        return is_stored

    def ended(self, blocks: tuple[int, ...], writer: Any) -> None:
        """A writer writes no more, whether it says so to the core or not."""
        if not self._checks.is_full:
            return
        for block in blocks:
            if self._writers.get(block) is writer:
                del self._writers[block]

    def evict(self, user: UserKey) -> int:
        """Forget a user."""
        count = self.core.evict(user, self.clock_ns())
        self._settled()
        return count

    def _hold_writers(self, blocks: tuple[int, ...], writer: Any) -> None:
        if not self._checks.is_full:
            return
        for block in blocks:
            other = self._writers.get(block)
            if other is not None and other is not writer and other.may_write():
                raise Violation("I5", f"block {block} is given out while {other} may write into it")
            self._writers[block] = writer

    def _is_current(self, owner: str, index: int) -> bool:
        return self.core.is_attached(owner, index, self.clock_ns())

    def _settled(self) -> None:
        self._timer.arm()
        self._checks.touch(self.core)
        if len(self.written) > 64 and len(self.written) > 4 * self.core.occupancy().entries:
            held = {grant.generation for grant in self.core._entries.held()}
            self.written = {generation: one for generation, one in self.written.items() if generation in held}

    def _expire(self) -> None:
        self._perform(self.core.expire(self.clock_ns()))
        self._settled()

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            assert isinstance(effect, ProbeLock)
            is_held = self.owner_lives[effect.owner_index]()
            self._perform(self.core.handle(LockProbed(effect.owner_index, is_held), self.clock_ns()))
