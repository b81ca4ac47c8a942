"""A ranker's way to its expander in virtual time: heartbeats, loads, stores, and answers that get lost.

What the adapter does in production is done here with its order kept: the lock is let go after the last copy, a
lookup that nobody wants any more lets its pin go, a store's end is repeated until it is heard.

Source: design, section 3 (expander), invariant I7.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Protocol

from bench.tiers.soak_dram import Attachment, SoakExpander
from bench.tiers.soak_time import Act
from relaygr.domain.identity import PsiKey, UserKey
from services.expander.core.effects import Found, StoreGrant, StoreRefusal
from services.expander.core.entries import Content

CONTROL_NS = 300_000
"""There and back."""
TIMEOUT_NS = 50_000_000
LOST_SHARE = 0.004
"""Of answers; the caller takes a timeout for them."""
HEARTBEAT_NS = 500_000_000
STORES_MAX = 4
COPY_BYTE_NS = 2.0
"""Slow, so that crashes and stops meet copies."""


class Process(Protocol):
    """Who calls: a process that can be stopped and killed."""

    name: str
    epoch: int

    @property
    def now_ns(self) -> int:
        """Now."""
        ...

    def later(self, delay_ns: int, act: Act) -> None:
        """Have something done, later still while stopped, and never once killed."""
        ...


@dataclass(slots=True, eq=False)
class Pinned:
    """What a lookup found; to be ended once."""

    found: Found
    attachment: Attachment


class SoakLink:
    """One ranker's.

    Args:
        process: whose.
        expander: the host's.
        chance: what gets lost.
        on_attached: told when the tier comes and goes.
    """

    def __init__(
        self, process: Process, expander: SoakExpander, chance: Random, on_attached: Callable[[bool], None]
    ) -> None:
        self._process = process
        self._expander = expander
        self._chance = chance
        self._on_attached = on_attached
        self._held: Attachment | None = None
        self._is_usable = False
        self._beats = 0
        self._stores: dict[PsiKey, None] = {}
        self.wrong_blocks = 0
        """Loads whose blocks held something else although the pin held to the end."""

    def start(self) -> None:
        """Begin to attach."""
        self._beat_in(0)

    def release_locks(self) -> None:
        """The process is gone: the kernel lets its bytes go."""
        locks = self._expander.locks
        for index in [index for index, holder in locks.items() if holder == self._holder]:
            del locks[index]

    def lookup(self, key: PsiKey, done: Callable[[Pinned | None], None]) -> None:
        """Find and pin."""
        attachment = self._current
        if attachment is None or key not in self._expander.present:
            self._process.later(0, lambda: done(None))
            return

        def answered() -> None:
            core = self._expander.current(self._process.name, attachment)
            found = None if core is None else core.lookup(attachment.index, key, self._process.now_ns)
            if core is None:
                self._suspend(attachment)
            if self._is_lost():
                # A pin that nobody knows of: it ends by itself.
                self._process.later(TIMEOUT_NS, lambda: done(None))
            else:
                done(None if found is None or attachment.is_ended else Pinned(found, attachment))

        self._process.later(CONTROL_NS, answered)

    def load(self, pinned: Pinned, key: PsiKey, copy_ns: int, done: Callable[[bool], None]) -> None:
        """Copy out and end the pin; True when what was copied may be used."""
        attachment = pinned.attachment
        grant = None
        core = self._expander.current(self._process.name, attachment)
        if core is not None and not attachment.is_ended:
            grant = core.prepare_load(attachment.index, pinned.found.pin_id, self._process.now_ns)
        if grant is None:
            self.abandon(pinned)
            self._process.later(CONTROL_NS, lambda: done(False))
            return
        blocks, attachment.copies = grant.blocks, attachment.copies + 1

        def copied() -> None:
            attachment.copies -= 1
            is_whole = self._expander.boot == attachment.boot and self._expander.holds(blocks, key)
            has_held = self._complete_load(pinned) and not self._is_lost()
            self.wrong_blocks += has_held and not is_whole
            done(has_held)

        self._process.later(CONTROL_NS + copy_ns, copied)

    def abandon(self, pinned: Pinned) -> None:
        """End a pin unused."""

        def ended() -> None:
            self._complete_load(pinned)

        self._process.later(CONTROL_NS, ended)

    def store(
        self, key: PsiKey, tokens: int, digest: bytes, length_bytes: int, done: Callable[[bool, int], None]
    ) -> None:
        """Copy in and publish: whether the tier has it, said once the pages are not read any more; and how far."""
        attachment = self._current
        if attachment is None or len(self._stores) >= STORES_MAX or key in self._stores:
            self._process.later(0, lambda: done(False, tokens))
            return
        self._stores[key] = None
        content = Content(tokens, digest, length_bytes, b"", "")

        def granted() -> None:
            core = self._expander.current(self._process.name, attachment)
            if core is None or attachment.is_ended:
                self._suspend(attachment)
                self._end_store(key)
                done(False, tokens)
                return
            now_ns = self._process.now_ns
            grant = core.prepare_store(attachment.index, key, tokens, digest, length_bytes, now_ns)
            if isinstance(grant, StoreRefusal):
                self._end_store(key)
                done(grant is StoreRefusal.PRESENT, tokens)
                return
            attachment.copies += 1
            copy_ns = int(COPY_BYTE_NS * length_bytes)
            self._process.later(copy_ns, lambda: self._written(attachment, key, grant, content, done))

        self._process.later(CONTROL_NS, granted)

    def _written(
        self,
        attachment: Attachment,
        key: PsiKey,
        grant: StoreGrant,
        content: Content,
        done: Callable[[bool, int], None],
    ) -> None:
        # Bytes land before anybody can say that they should not: a stopped writer wakes up in the middle.
        self._expander.write(attachment.boot, grant.blocks, key)
        attachment.copies -= 1
        is_heard = not self._is_lost()
        is_stored = is_heard and self._complete_store(attachment, grant, content)
        done(is_stored, content.tokens)
        if is_heard or attachment.is_ended:
            self._end_store(key)
        else:
            self._insist(attachment, key, grant, content)

    def _insist(self, attachment: Attachment, key: PsiKey, grant: StoreGrant, content: Content) -> None:
        def again() -> None:
            if not attachment.is_ended:
                self._complete_store(attachment, grant, content)
            self._end_store(key)

        self._process.later(2 * TIMEOUT_NS, again)

    def forget(self, owner: UserKey) -> None:
        """Purge a user; nothing while the expander is down."""

        def evict() -> None:
            if self._expander.core is not None:
                self._expander.core.evict(owner, self._process.now_ns)

        self._process.later(CONTROL_NS, evict)

    @property
    def is_idle(self) -> bool:
        """True when no copy and no store is under way."""
        return not self._stores and (self._held is None or not self._held.copies)

    @property
    def _holder(self) -> str:
        return f"{self._process.name}/{self._process.epoch}"

    @property
    def _current(self) -> Attachment | None:
        return self._held if self._is_usable else None

    def _is_lost(self) -> bool:
        return self._chance.random() < LOST_SHARE

    def _complete_load(self, pinned: Pinned) -> bool:
        attachment = pinned.attachment
        core = self._expander.current(self._process.name, attachment)
        if core is None:
            self._suspend(attachment)
            return False
        has_held = core.complete_load(attachment.index, pinned.found.pin_id, True, self._process.now_ns)
        return has_held and not attachment.is_ended

    def _complete_store(self, attachment: Attachment, grant: StoreGrant, content: Content) -> bool:
        core = self._expander.current(self._process.name, attachment)
        if core is None or attachment.is_ended:
            self._suspend(attachment)
            return False
        return core.complete_store(attachment.index, grant.store_id, True, content, self._process.now_ns)

    def _end_store(self, key: PsiKey) -> None:
        del self._stores[key]

    def _suspend(self, attachment: Attachment) -> None:
        """A call was stale, or nobody answered: off until it is asked again, now."""
        if attachment is self._held and self._is_usable:
            self._set_usable(False)
            self._beat_in(0)

    def _beat_in(self, delay_ns: int) -> None:
        self._beats += 1
        number = self._beats
        self._process.later(delay_ns, lambda: self._beat() if number == self._beats else None)

    def _beat(self) -> None:
        core, name = self._expander.core, self._process.name
        index = None if core is None else core.attach(name, self._process.epoch, self._process.now_ns)
        if index is None:
            self._set_usable(False)
            self._beat_in(HEARTBEAT_NS)
            return
        held = self._held
        if held is not None and (held.boot, held.index) != (self._expander.boot, index):
            self._set_usable(False)
            self._drop(held)
            return
        if held is None:
            self._held = Attachment(self._expander.boot, index)
            self._expander.locks[index] = self._holder
        self._set_usable(True)
        self._beat_in(HEARTBEAT_NS)

    def _drop(self, held: Attachment) -> None:
        """End an attachment once its copies have ended; then attach anew."""
        held.is_ended = True
        if held.copies:
            self._process.later(CONTROL_NS, lambda: self._drop(held))
            return
        if held.boot == self._expander.boot:
            self._expander.locks.pop(held.index, None)
        self._held = None
        self._beat_in(0)

    def _set_usable(self, usable: bool) -> None:
        if usable != self._is_usable:
            self._is_usable = usable
            self._on_attached(usable)
