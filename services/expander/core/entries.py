"""Published entries: found by key, held by pins, evicted least recently used first.

    published, idle ◄──pin / unpin──► published, pinned
          │ evict, replace, age, forget        │ replace, age, forget, bad digest
          ▼                                    ▼
        freed ◄────────last unpin────────── doomed (cannot be found, blocks still held)

A key has at most one published entry, and blocks bear an entry's stamp exactly while it can be found: so a reader that
sees the stamp needs no other word that this is what the key has. A pin that outlives its entry's place in the index
keeps the blocks, never the right to use them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from relaygr.domain.identity import PsiKey, UserKey
from services.expander.core.blocks import Blocks, Holder
from services.expander.core.presence import Presence, Unwatched

_K = TypeVar("_K")


@dataclass(frozen=True, slots=True)
class Content:
    """What an entry holds."""

    tokens: int
    chain_digest: bytes
    length_bytes: int
    content_digest: bytes
    producer_trace: str


@dataclass(slots=True)
class Entry:
    """Blocks under a key."""

    generation: int
    key: PsiKey
    content: Content
    blocks: tuple[int, ...]
    expires_ns: int
    used_ns: int
    """When it was published or last found."""
    owner_index: int | None
    """The ranker that stored it, or None once that is gone: the entry is of use to others, and counted to nobody."""
    pins: int = 0
    is_published: bool = True

    @property
    def holders(self) -> tuple[Holder, ...]:
        """Who its blocks are counted to."""
        tenant = self.key.owner.tenant
        return (tenant,) if self.owner_index is None else (tenant, self.owner_index)


class Entries:
    """The index, and what is still held outside of it."""

    def __init__(self, blocks: Blocks, pinned_blocks_max: int, presence: Presence | None = None):
        self._blocks = blocks
        self._presence = Unwatched() if presence is None else presence
        self._pinned_blocks_max = pinned_blocks_max
        self._published: dict[PsiKey, Entry] = {}  # in order of publication, which is the order of age
        self._doomed: dict[int, Entry] = {}
        self._by_user: dict[UserKey, dict[int, Entry]] = {}
        self._idle: dict[int, Entry] = {}  # published and not pinned, least recently used first
        self._idle_by_holder: dict[Holder, dict[int, Entry]] = {}
        self._idle_blocks = 0
        self._published_blocks = 0
        self._pinned_blocks = 0
        self._doomed_blocks = 0

    def __len__(self) -> int:
        return len(self._published) + len(self._doomed)

    @property
    def published_count(self) -> int:
        """Entries that can be found."""
        return len(self._published)

    @property
    def published_blocks(self) -> int:
        """Blocks of entries that can be found."""
        return self._published_blocks

    @property
    def doomed_blocks(self) -> int:
        """Blocks held by pins alone."""
        return self._doomed_blocks

    @property
    def idle_blocks(self) -> int:
        """Blocks that eviction could free."""
        return self._idle_blocks

    def idle(self, holder: Holder | None = None) -> Iterable[Entry]:
        """Entries that may be evicted (of a tenant or a ranker), least recently used first."""
        return (self._idle if holder is None else self._idle_by_holder.get(holder, {})).values()

    def find(self, key: PsiKey) -> Entry | None:
        """The published entry of a key."""
        return self._published.get(key)

    def publish(self, entry: Entry) -> None:
        """Make an entry visible in place of its key's former one."""
        # In before the former goes out: a reader elsewhere never sees the key gone in between.
        self._presence.add(entry.key)
        former = self._published.get(entry.key)
        if former is not None:
            self.doom(former)
        self._published[entry.key] = entry
        self._by_user.setdefault(entry.key.owner, {})[entry.generation] = entry
        self._published_blocks += len(entry.blocks)
        self._set_idle(entry)

    def pin(self, entry: Entry) -> bool:
        """Hold an entry; False when pinned blocks would exceed their maximum."""
        assert entry.is_published
        if entry.pins == 0:
            if self._pinned_blocks + len(entry.blocks) > self._pinned_blocks_max:
                return False
            self._clear_idle(entry)
            self._pinned_blocks += len(entry.blocks)
        entry.pins += 1
        return True

    def unpin(self, entry: Entry) -> None:
        """Let one hold go."""
        assert entry.pins > 0, "a pin was let go twice"
        entry.pins -= 1
        if entry.pins:
            return
        self._pinned_blocks -= len(entry.blocks)
        if entry.is_published:
            self._set_idle(entry)
        else:
            del self._doomed[entry.generation]
            self._doomed_blocks -= len(entry.blocks)
            self._release(entry)

    def touch(self, entry: Entry) -> None:
        """Used without a pin: the last to be evicted of those that are idle."""
        assert entry.is_published
        if not entry.pins:
            self._clear_idle(entry)
            self._set_idle(entry)

    def doom(self, entry: Entry) -> None:
        """Take an entry out of the index; its stamps go now, its blocks are free once nothing pins them."""
        if not entry.is_published:
            return
        entry.is_published = False
        self._blocks.revoke(entry.blocks, entry.generation)
        del self._published[entry.key]
        self._presence.remove(entry.key)
        self._published_blocks -= len(entry.blocks)
        if entry.pins:
            self._doomed[entry.generation] = entry
            self._doomed_blocks += len(entry.blocks)
        else:
            self._clear_idle(entry)
            self._release(entry)

    def forget(self, user: UserKey) -> int:
        """Doom everything of a user; entries that could be found."""
        entries = tuple(self._by_user.get(user, {}).values())
        found = sum(entry.is_published for entry in entries)
        for entry in entries:
            self.doom(entry)
        return found

    def evict(self, entry: Entry) -> None:
        """Free an idle entry."""
        assert entry.pins == 0, "eviction of a pinned entry"
        self.doom(entry)

    def disown(self, owner_index: int) -> None:
        """A ranker is gone: what it published stays, counted to nobody."""
        self._idle_by_holder.pop(owner_index, None)
        for entry in self.held():
            if entry.owner_index == owner_index:
                entry.owner_index = None
                self._blocks.uncount(len(entry.blocks), owner_index)

    def oldest(self) -> Entry | None:
        """The entry published longest ago."""
        return next(iter(self._published.values()), None)

    def held(self) -> list[Entry]:
        """Every entry that holds blocks."""
        return [*self._published.values(), *self._doomed.values()]

    def _set_idle(self, entry: Entry) -> None:
        self._idle[entry.generation] = entry
        for holder in entry.holders:
            self._idle_by_holder.setdefault(holder, {})[entry.generation] = entry
        self._idle_blocks += len(entry.blocks)

    def _clear_idle(self, entry: Entry) -> None:
        del self._idle[entry.generation]
        for holder in entry.holders:
            _remove(self._idle_by_holder, holder, entry.generation)
        self._idle_blocks -= len(entry.blocks)

    def _release(self, entry: Entry) -> None:
        assert entry.pins == 0 and not entry.is_published, "blocks in use were freed"
        _remove(self._by_user, entry.key.owner, entry.generation)
        self._blocks.free(entry.blocks, entry.generation, entry.holders)

    def check(self) -> None:
        """Assert that the tables agree with each other."""
        held = listed = idle_blocks = published_blocks = pinned_blocks = doomed_blocks = before_ns = 0
        for key, entry in self._published.items():
            assert entry.is_published and (entry.key is key or entry.key == key)
            assert before_ns <= entry.expires_ns, "entries are not in order of age"
            assert (entry.pins == 0) == (entry.generation in self._idle), "idle is not what is published and unpinned"
            assert entry.generation in self._by_user.get(key.owner, ())
            before_ns = entry.expires_ns
            published_blocks += len(entry.blocks)
            if entry.pins:
                assert entry.pins > 0
                pinned_blocks += len(entry.blocks)
                continue
            held += 1
            idle_blocks += len(entry.blocks)
            for holder in entry.holders:
                listed += 1
                assert entry.generation in self._idle_by_holder.get(holder, ())
        assert held == len(self._idle), "idle is not what is published and unpinned"
        assert listed == sum(map(len, self._idle_by_holder.values()))
        for entry in self._doomed.values():
            assert not entry.is_published and entry.pins > 0, "doomed and held by nobody"
            assert entry.generation in self._by_user.get(entry.key.owner, ())
            doomed_blocks += len(entry.blocks)
        assert len(self) == sum(map(len, self._by_user.values()))
        sums = (idle_blocks, published_blocks, doomed_blocks, pinned_blocks + doomed_blocks)
        assert sums == (self._idle_blocks, self._published_blocks, self._doomed_blocks, self._pinned_blocks)
        assert self._pinned_blocks <= self._pinned_blocks_max


def _remove(tables: dict[_K, dict[int, Entry]], key: _K, generation: int) -> None:
    # Empty tables go, so that there are never more of them than entries.
    table = tables[key]
    del table[generation]
    if not table:
        del tables[key]
