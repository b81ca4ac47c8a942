"""One life of the expander: its core, a real segment and real locks, and what its blocks ought to hold."""

from __future__ import annotations

import os
from pathlib import Path

from relaygr.domain.identity import PsiKey, UserKey
from relaygr.errors import Stale
from relaygr.segment import Geometry, MappedSegment, OwnedSegment, remove_stale
from services.expander.core.effects import Found, LoadGrant, ProbeLock, StoreGrant, StoreRefusal
from services.expander.core.entries import Content, Entry
from services.expander.core.events import LockProbed
from services.expander.core.limits import TieringLimits
from services.expander.core.tiering import Tiering
from tests.property.tiers_histories import Bytes

BLOCK_BYTES = 4096
LIMITS = TieringLimits(
    block_bytes=BLOCK_BYTES,
    block_count=16,
    owners_max=5,
    entries_max=6,
    pins_max=6,
    pinned_blocks_max=9,
    stores_max=4,
    stores_per_owner_max=3,
    staging_blocks_max=9,
    tenant_blocks_max=12,
    owner_blocks_max=13,
    tombstones_max=4,
    owner_lapse_ns=40_000,
    probe_ns=5_000,
    pin_ns=50_000,
    store_ns=60_000,
    entry_age_ns=600_000,
    tombstone_ns=100_000,
)
DEPLOYMENT = "tiers"
DAMAGED_STAMP = 1 << 40


class Expander:
    """The service's edge without gRPC: what it does around the core's verbs, and the truth beside it."""

    def __init__(self, folder: Path, number: int):
        remove_stale(folder, DEPLOYMENT)
        self.segment = OwnedSegment(folder, DEPLOYMENT, f"{number:032x}", Geometry(BLOCK_BYTES, LIMITS.block_count))
        self.core = Tiering(LIMITS, self.segment.presence, self.segment)
        self.core._admission._gaps._until_renewal = 1  # or no run would be long enough for a store to be put off
        self.reader = self.map()
        self.lives: dict[int, int] = {}
        """Published generations: the life of their user that they are of."""
        self.corrupted: set[int] = set()
        self.evicted: dict[UserKey, int] = {}
        """Forgotten users, and the life from which psi may be here again."""

    def map(self) -> MappedSegment:
        """The segment as a ranker maps it."""
        geometry = self.segment.geometry
        return MappedSegment.open(
            self.segment.path,
            boot_id=self.segment.boot_id,
            segment_bytes=geometry.total_bytes,
            block_bytes=geometry.block_bytes,
        )

    def lookup(self, index: int, now_ns: int, key: PsiKey) -> Found | None:
        return self.core.lookup(index, key, now_ns)

    def prepare_load(self, index: int, now_ns: int, pin_id: int) -> LoadGrant | None:
        return self.core.prepare_load(index, pin_id, now_ns)

    def complete_load(self, index: int, now_ns: int, pin_id: int, verified: bool) -> bool:
        ends = ("corrupt", "pin_gone")
        before = [self.core.counters[end] for end in ends]
        pin = self.core._pins.get(pin_id)
        held = self.core.complete_load(index, pin_id, verified, now_ns)
        grown = sum(self.core.counters[end] for end in ends) - sum(before)
        was_revoked = pin is not None and not pin.entry.is_published and self.core.counters["corrupt"] == before[0]
        assert verified or ((grown == 1 or was_revoked) and not held), "bytes that failed their digest were not counted"
        is_dropped = self.core.counters["corrupt"] > before[0]
        is_bad = pin is not None and pin.entry.generation in self.corrupted
        assert is_bad or not is_dropped, "sound bytes are dropped"
        assert not self.core.complete_load(index, pin_id, True, now_ns), "a pin ends once"
        return held

    def complete_unpinned(self, index: int, now_ns: int, key: PsiKey, generation: int, verified: bool) -> bool:
        before = self.core.counters["corrupt"]
        is_current = self.core.complete_unpinned(index, key, generation, verified, now_ns)
        is_dropped = self.core.counters["corrupt"] > before
        assert generation in self.corrupted or not is_dropped, "sound bytes are dropped"
        entry = self.core._entries.find(key)
        assert not is_current or (entry is not None and entry.generation == generation)
        is_left = entry is not None and entry.generation == generation
        assert verified or not is_left, "bytes that failed their digest can still be found"
        return is_current

    def prepare_store(
        self, index: int, now_ns: int, key: PsiKey, tokens: int, chain_digest: bytes, length_bytes: int
    ) -> StoreGrant | StoreRefusal:
        if not self.segment.locks.is_held(index):
            raise Stale("the caller does not hold its byte of the lock file")
        return self.core.prepare_store(index, key, tokens, chain_digest, length_bytes, now_ns)

    def complete_store(
        self, index: int, now_ns: int, key: PsiKey, grant: StoreGrant, written: bool, content: Content, life: int
    ) -> bool:
        before = self.core.counters["store_published"]
        is_there = self.core.complete_store(index, grant.store_id, written, content, now_ns)
        if self.core.counters["store_published"] > before:
            assert written, "a store was published that its writer did not finish"
            assert life >= self.evicted.get(key.owner, 0), "psi of a forgotten user is published"
            self.lives[grant.generation] = life
        assert not self.core.complete_store(index, grant.store_id, True, content, now_ns), "a store is complete once"
        return is_there

    def evict(self, owner: UserKey, now_ns: int, life: int) -> None:
        self.core.evict(owner, now_ns)
        self.evicted[owner] = life

    def sweep(self, now_ns: int) -> None:
        for effect in self.core.expire(now_ns):
            assert isinstance(effect, ProbeLock)
            is_held = self.segment.locks.is_held(effect.owner_index)
            self.core.handle(LockProbed(effect.owner_index, is_held), now_ns)
        deadline_ns = self.core.deadline_ns()
        assert deadline_ns is None or deadline_ns > now_ns, "expire left something that was due"

    def published(self) -> list[Entry]:
        """Entries that can be found."""
        return [entry for entry in self.core._entries.held() if entry.is_published]

    def bytes_of(self, entry: Entry) -> Bytes:
        """What an entry's blocks hold."""
        blocks = self.reader.blocks.reshape(LIMITS.block_count, BLOCK_BYTES)
        return blocks[list(entry.blocks)].reshape(-1)[: entry.content.length_bytes]

    def corrupt(self, entry: Entry, position: int, *, is_stamp: bool) -> None:
        """One byte of an entry, or the stamp of one of its blocks, changes; once: twice the same would be no change."""
        if entry.generation in self.corrupted:
            return
        which, at = divmod(position % entry.content.length_bytes, BLOCK_BYTES)
        if is_stamp:
            self.segment.stamp((entry.blocks[which],), DAMAGED_STAMP)
        else:
            self.reader.block(entry.blocks[which])[at] ^= 0x40
        self.corrupted.add(entry.generation)

    def close(self, *, is_killed: bool) -> None:
        """End: with its files removed, or as by SIGKILL, which leaves them to the next start."""
        self.reader.close()
        if not is_killed:
            self.segment.close()
            return
        segment = self.segment
        del segment._generations
        segment.presence.detach()
        segment._map.close()
        os.close(segment._fd)
        os.close(segment.locks._fd)
        segment._fd = segment.locks._fd = -1
