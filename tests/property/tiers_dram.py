"""A ranker's side of the DRAM tier, a step at a time: what the adapters do, in an order that the test decides.

Heartbeats, mapping and lock as in services/ranker/adapters/dram_attachment.py, loads and stores as in dram.py.
Each `yield` is a place where anything else may happen. The lock, the mapping and the copies are the real ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from relaygr.domain.identity import PsiKey, UserKey
from relaygr.errors import Stale
from relaygr.segment import ContentDigest, MappedSegment, OwnerLock, SegmentRejected, identity_bytes
from services.expander.core.effects import Found, LoadGrant, StoreGrant, StoreRefusal
from services.expander.core.entries import Content
from services.ranker.adapters.dram_known import Known, KnownEntries
from tests.property.tiers_copies import SteppedCopy
from tests.property.tiers_expander import BLOCK_BYTES, LIMITS, Expander
from tests.property.tiers_histories import Bytes

FAILURES_MAX = 4
KNOWN_MAX = 2
"""Few, so that lookups by a call stay frequent."""
NO_PIN = 0


@dataclass(eq=False)
class Attachment:
    """One boot of the expander and one owner index; ends once."""

    expander: Expander
    index: int
    segment: MappedSegment
    lock: OwnerLock
    is_ended: bool = False


@dataclass(eq=False)
class Pinned:
    """A lookup's answer, or what was remembered, without a pin. To be ended once."""

    key: PsiKey
    found: Found
    attachment: Attachment
    found_ns: int
    is_spent: bool = False

    @property
    def is_pinned(self) -> bool:
        return self.found.pin_id != NO_PIN


@dataclass(eq=False)
class Store:
    """A store in flight, and the life of the user that its pages are of."""

    key: PsiKey
    tokens: int
    digest: bytes
    trace: str
    life: int
    is_stored: bool = False


class DramSide:
    """Attachment, loads and stores of one ranker process. `ranker` is told when the tier comes and goes."""

    def __init__(self, world: Any, ranker: Any):
        self._world = world
        self._ranker = ranker
        self.held: Attachment | None = None
        self.is_usable = False
        self.copies: dict[SteppedCopy, Attachment] = {}
        """Under way, also under an attachment that has ended."""
        self._failures = 0
        self._storing: set[PsiKey] = set()
        self.known = KnownEntries(KNOWN_MAX)

    @property
    def current(self) -> Attachment | None:
        return self.held if self.is_usable else None

    # Attachment

    def beat(self) -> None:
        """One heartbeat: ask, and go over to what the answer says."""
        index = self._ask()
        if index is not None and self.held is not None and not self._is_of(index):
            self._set_usable(False)
            self.drop()
            index = self._ask()
        if index is None or not self._adopt(index):
            self._set_usable(False)
            self._failures += 1
            if self._failures >= FAILURES_MAX:
                self.drop()
            return
        self._failures = 0
        self._set_usable(True)

    def drop(self) -> None:
        """Stop copies and wait for them, unmap, let the lock go."""
        attachment, self.held = self.held, None
        if attachment is not None:
            attachment.is_ended = True
            for copy in self.copies:
                copy.stop()
            attachment.segment.close()
            attachment.lock.release()

    def kill(self) -> None:
        """The process dies: its threads where they are, then what the kernel takes back."""
        attachment, self.held, self.is_usable = self.held, None, False
        for copy in self.copies:
            copy.kill()
        if attachment is not None:
            attachment.segment.close()
            attachment.lock.release()

    def suspend(self, attachment: Attachment) -> None:
        """A call found the tier gone or stale: off until the next heartbeat."""
        if attachment is self.held:
            self._set_usable(False)

    def _ask(self) -> int | None:
        expander = self._world.expander
        if expander is None:
            return None
        index: int | None = expander.core.attach(self._ranker.name, self._ranker.epoch, self._world.now_ns)
        return index

    def _is_of(self, index: int) -> bool:
        return self.held is not None and (self.held.expander, self.held.index) == (self._world.expander, index)

    def _adopt(self, index: int) -> bool:
        if self.held is not None:
            return True
        expander = self._world.expander
        try:
            lock = OwnerLock(expander.segment.locks.path, index)
        except (SegmentRejected, BlockingIOError):
            return False
        self.held = Attachment(expander, index, expander.map(), lock)
        return True

    def _set_usable(self, is_usable: bool) -> None:
        if is_usable != self.is_usable:
            self.is_usable = is_usable
            self._ranker.note_dram(is_usable)

    # Calls

    def _call(self, attachment: Attachment, verb: str, *arguments: Any) -> Any:
        """One control call; None for any fault of the tier."""
        world = self._world
        fate, world.fate = world.fate, "answered"
        if attachment.is_ended or fate == "request lost":
            return None
        expander = world.expander
        try:
            if expander is not attachment.expander:
                raise Stale("another boot of the expander, or none")
            if not expander.core.is_attached(self._ranker.name, attachment.index, world.now_ns):
                raise Stale("the caller is not attached under this index")
            answer = getattr(expander, verb)(attachment.index, world.now_ns, *arguments)
        except Stale:
            self.suspend(attachment)
            return None
        return None if fate == "reply lost" else answer

    # Loads

    def lookup(self, key: PsiKey) -> Pinned | None:
        """Remember, or find and pin."""
        attachment = self.current
        if attachment is None or not attachment.segment.presence.may_hold(key):
            return None
        known = self.known.find(attachment.segment, key)
        if known is not None:
            found: Found | None = self._remembered(attachment, key, known)
        else:
            found = self._call(attachment, "lookup", key)
            if found is not None:
                self._learn(attachment, key, found.content, found.generation, found.blocks)
        return None if found is None or attachment.is_ended else Pinned(key, found, attachment, self._world.now_ns)

    def forget(self, owner: UserKey) -> None:
        """A user is to be erased; the tier is asked beside this."""
        self.known.forget(owner)

    def _learn(
        self, attachment: Attachment, key: PsiKey, content: Content, generation: int, blocks: tuple[int, ...]
    ) -> None:
        said = (content.tokens, content.chain_digest, content.length_bytes, content.producer_trace)
        self.known.learn(attachment.segment, key, Known(*said, content.content_digest, generation, blocks))
        self.known.check()

    def _remembered(self, attachment: Attachment, key: PsiKey, known: Known) -> Found:
        expander = self._world.expander
        if expander is attachment.expander:
            entry = expander.core._entries.find(key)
            assert entry is not None and entry.generation == known.generation, "remembered what the key does not have"
        said = (known.token_count, known.chain_digest, known.length_bytes, known.content_digest)
        return Found(NO_PIN, known.generation, Content(*said, known.producer_traceparent), known.blocks)

    def load(self, pinned: Pinned, pages: Sequence[Bytes], is_given_up: Callable[[], bool]) -> Iterator[None]:
        """Copy into pages and end the pin; returns whether the pages hold the entry."""
        attachment, found = pinned.attachment, pinned.found
        if pinned.is_spent or attachment.is_ended:
            return False
        pinned.is_spent = True
        content = found.content
        assert sum(page.nbytes for page in pages) == content.length_bytes
        blocks = yield from self._blocks_of(pinned)
        if blocks is None or attachment.is_ended:
            if pinned.is_pinned:
                self._complete_load(pinned, verified=True)
            return False
        corrupted = attachment.expander.corrupted
        was_corrupt = found.generation in corrupted
        digest = ContentDigest(identity_bytes(pinned.key, content.chain_digest), content.tokens, content.length_bytes)
        copy = SteppedCopy(attachment.segment, blocks, found.generation, pages, digest, is_store=False)
        has_run = yield from self._run(attachment, copy, is_given_up)
        # As Copier.run does: once the threads are done the loop looks at the stamps itself, in the turn that believes.
        has_run = has_run and not attachment.is_ended and attachment.segment.owns(blocks, found.generation)
        is_right = has_run and digest.digest() == content.content_digest
        assert not (is_right and was_corrupt), "a changed byte has the same digest"
        assert is_right or not has_run or found.generation in corrupted, (
            "a whole copy of a whole entry fails its digest"
        )
        was_stopped = not has_run and (is_given_up() or attachment.is_ended)
        if not is_right:
            self.known.drop(pinned.key)
        if not pinned.is_pinned and not has_run:
            return False
        end = self._ended_load(pinned, verified=is_right or was_stopped)
        if is_right and not attachment.is_ended:
            self._check_loaded(pinned)
            self._ranker.errands.append(end)
            return True
        yield from end
        return False

    def _blocks_of(self, pinned: Pinned) -> Iterator[None]:
        """As the lookup told them, or as an older expander is asked for them."""
        if not pinned.is_pinned or pinned.found.pin_id % 3:
            return pinned.found.blocks
        grant: LoadGrant | None = self._call(pinned.attachment, "prepare_load", pinned.found.pin_id)
        yield
        assert grant is None or grant.generation == pinned.found.generation
        return None if grant is None else grant.blocks

    def abandon(self, pinned: Pinned) -> Iterator[None]:
        """End a pin unused."""
        yield
        if not pinned.is_spent:
            pinned.is_spent = True
            if pinned.is_pinned:
                self._complete_load(pinned, verified=True)

    def _check_loaded(self, pinned: Pinned) -> None:
        expander, owner = pinned.attachment.expander, pinned.key.owner
        assert self._world.expander in (expander, None), "a dead expander's grant was used after the next one's start"
        life = expander.lives[pinned.found.generation]
        assert life >= expander.evicted.get(owner, 0), "psi of a forgotten user was loaded"

    def _ended_load(self, pinned: Pinned, *, verified: bool) -> Iterator[None]:
        yield
        self._complete_load(pinned, verified=verified)

    def _complete_load(self, pinned: Pinned, *, verified: bool) -> bool:
        if not pinned.is_pinned:
            said = (pinned.key, pinned.found.generation, verified)
            return bool(self._call(pinned.attachment, "complete_unpinned", *said))
        has_held = bool(self._call(pinned.attachment, "complete_load", pinned.found.pin_id, verified))
        assert not has_held or self._world.now_ns < pinned.found_ns + LIMITS.pin_ns, "a pin held beyond its time"
        return has_held

    # Stores

    def store(self, store: Store, pages: Sequence[Bytes]) -> Iterator[None]:
        """Copy out of pages and publish. The pages are not read any more once this has ended."""
        attachment = self.current
        if attachment is None or store.key in self._storing:
            yield
            return
        self._storing.add(store.key)
        length_bytes = sum(page.nbytes for page in pages)
        ask = (store.key, store.tokens, store.digest, length_bytes)
        grant: StoreGrant | StoreRefusal | None = self._call(attachment, "prepare_store", *ask)
        yield
        if grant is None:
            # It may have been granted: asked again for the same, the expander repeats the grant.
            self._ranker.errands.append(self._insist_grant(attachment, store, ask))
            return
        if isinstance(grant, StoreRefusal):
            store.is_stored = grant is StoreRefusal.PRESENT
            self._storing.discard(store.key)
            return
        assert len(grant.blocks) == -(-length_bytes // BLOCK_BYTES)
        digest = ContentDigest(identity_bytes(store.key, store.digest), store.tokens, length_bytes)
        written = False
        if not attachment.is_ended:
            copy = SteppedCopy(attachment.segment, grant.blocks, grant.generation, pages, digest, is_store=True)
            written = yield from self._run(attachment, copy, lambda: False)
        content = Content(store.tokens, store.digest, length_bytes, digest.digest(), store.trace)
        reply = self._call(attachment, "complete_store", store.key, grant, written, content, store.life)
        yield
        store.is_stored = bool(reply)
        if store.is_stored:
            self._learn(attachment, store.key, content, grant.generation, grant.blocks)
        if reply is None:
            self._ranker.errands.append(self._insist_end(attachment, store, grant, written, content))
        else:
            self._storing.discard(store.key)

    def _insist_grant(self, attachment: Attachment, store: Store, ask: tuple[Any, ...]) -> Iterator[None]:
        grant = None
        while grant is None and not attachment.is_ended:
            grant = self._call(attachment, "prepare_store", *ask)
            yield
        if isinstance(grant, StoreGrant):
            content = Content(store.tokens, store.digest, ask[-1], bytes(16), store.trace)
            yield from self._insist_end(attachment, store, grant, False, content)
        self._storing.discard(store.key)

    def _insist_end(
        self, attachment: Attachment, store: Store, grant: StoreGrant, written: bool, content: Content
    ) -> Iterator[None]:
        reply = None
        while reply is None and not attachment.is_ended:
            reply = self._call(attachment, "complete_store", store.key, grant, written, content, store.life)
            yield
        self._storing.discard(store.key)

    def _run(self, attachment: Attachment, copy: SteppedCopy, is_given_up: Callable[[], bool]) -> Iterator[None]:
        """Let a copy go on; returns what it returned."""
        self.copies[copy] = attachment
        while not copy.is_over:
            if is_given_up():
                copy.tell_to_stop()
            copy.step()
            if copy.result:
                stamps = attachment.segment.generations[list(copy.blocks)]
                assert (stamps == copy.generation).all(), "a copy of blocks that changed hands went well"
            yield
        del self.copies[copy]
        return bool(copy.result)
