"""The DRAM tier's decisions: six verbs and a heartbeat, answered at once.

Who may read or write which blocks, and until when. It sees block numbers, never bytes.
A verb's answer is returned, since every verb is one request and one response; what is not
an answer (looking at a lock) comes from `expire` as an effect and returns as an event.

What holds, and is asserted by `check`:

* a lookup that finds something has pinned it; nothing pinned is evicted or reused;
* a store is invisible until complete, and complete exactly once;
* blocks that somebody may still write are handed to nobody else;
* every pin, store, entry, owner and tombstone has an end;
* what a tenant and a ranker hold is counted exactly, and within their shares.

Calls name the owner's index as well as the owner; the caller has asked `is_attached`
first, in the same instant.

Source: design, section 3 (expander), section 4 (forgetting), invariants I3, I5, I7.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from relaygr.domain.identity import PsiKey, UserKey
from services.expander.core.admission import Admission
from services.expander.core.blocks import Blocks
from services.expander.core.effects import Effect, Found, LoadGrant, Occupancy, ProbeLock, StoreGrant, StoreRefusal
from services.expander.core.entries import Content, Entries, Entry
from services.expander.core.events import Event, LockProbed
from services.expander.core.limits import TieringLimits
from services.expander.core.owners import Owners, Slot
from services.expander.core.presence import Presence
from services.expander.core.room import Wanted, victims_for
from services.expander.core.stamps import Stamps
from services.expander.core.stores import Store, Stores
from services.expander.core.tombstones import Tombstones


@dataclass(slots=True)
class _Pin:
    pin_id: int
    owner_index: int
    entry: Entry
    due_ns: int


class Tiering:
    """The machine.

    Args:
        limits: bounds and times.
        presence: told which keys can be found; nobody when not given.
        stamps: told who owns which blocks; nobody when not given.
    """

    def __init__(self, limits: TieringLimits, presence: Presence | None = None, stamps: Stamps | None = None):
        self._limits = limits
        self._blocks = Blocks(limits.block_count, stamps)
        self._owners = Owners(limits.owners_max, limits.owner_lapse_ns, limits.probe_ns)
        self._entries = Entries(self._blocks, limits.pinned_blocks_max, presence)
        self._stores = Stores(self._blocks, limits.stores_max, limits.stores_per_owner_max, limits.staging_blocks_max)
        self._admission = Admission(limits.admission, min(limits.block_count, limits.entries_max))
        self._tombstones = Tombstones(limits.tombstones_max, limits.tombstone_ns)
        self._pins: dict[int, _Pin] = {}  # in order of grant, which is the order of due times
        self._pins_given = 0
        self._generations_given = 0
        self.counters: Counter[str] = Counter()
        """What happened since boot; names are those of the metrics' outcomes."""

    # Owners

    def attach(self, owner: str, epoch: int, now_ns: int) -> int | None:
        """Join or renew; the owner's index, or None when all indexes are taken.

        An owner that restarted, or whose store ran over its time, gets a new index; what the
        old one held is released or quarantined.
        """
        self._advance(now_ns)
        slot = self._owners.current(owner)
        if slot is not None and (slot.epoch != epoch or self._stores.has_quarantined(slot.index)):
            self._retire(slot, now_ns)
            slot = None
        if slot is not None:
            self._owners.renew(slot, now_ns)
        else:
            slot = self._owners.attach(owner, epoch, now_ns)
        return None if slot is None else slot.index

    def is_attached(self, owner: str, owner_index: int, now_ns: int) -> bool:
        """True when calls of this owner under this index are current."""
        self._advance(now_ns)
        return self._owners.is_attached(owner, owner_index)

    # Loads

    def lookup(self, owner_index: int, key: PsiKey, now_ns: int) -> Found | None:
        """Find and pin."""
        self._advance(now_ns)
        assert self._owners.is_index_attached(owner_index)
        entry = self._entries.find(key)
        if entry is None:
            self.counters["miss"] += 1
            return None
        if len(self._pins) >= self._limits.pins_max or not self._entries.pin(entry):
            self.counters["pin_refused"] += 1
            return None
        self._pins_given += 1
        pin = _Pin(self._pins_given, owner_index, entry, now_ns + self._limits.pin_ns)
        self._pins[pin.pin_id] = pin
        entry.used_ns = now_ns
        self._admission.note(key, now_ns, len(self._entries), is_return=True)
        self.counters["hit"] += 1
        return Found(pin.pin_id, entry.generation, entry.content, entry.blocks)

    def prepare_load(self, owner_index: int, pin_id: int, now_ns: int) -> LoadGrant | None:
        """The blocks of a pin that holds, or None."""
        self._advance(now_ns)
        pin = self._pins.get(pin_id)
        if pin is None or pin.owner_index != owner_index or not pin.entry.is_published:
            return None
        return LoadGrant(pin.entry.blocks, pin.entry.generation, pin.entry.content)

    def complete_load(self, owner_index: int, pin_id: int, verified: bool, now_ns: int) -> bool:
        """End a pin; True when it had held to the end, so that the bytes may be used.

        Bytes that were not verified take the entry with them. A reader that found the stamps of one gone that cannot
        be found any more says nothing against it.
        """
        self._advance(now_ns)
        pin = self._pins.get(pin_id)
        if pin is None or pin.owner_index != owner_index:
            self.counters["pin_gone"] += 1
            return False
        held = self._judged(pin.entry, verified)
        self._let_go(pin)
        return held

    def complete_unpinned(self, owner_index: int, key: PsiKey, generation: int, verified: bool, now_ns: int) -> bool:
        """What a reader that remembered an entry has read of it; True when this is still what the key has.

        It had no pin, but counts as a use like a lookup that found.
        """
        self._advance(now_ns)
        assert self._owners.is_index_attached(owner_index)
        entry = self._entries.find(key)
        if entry is None or entry.generation != generation:
            self.counters["unpinned_gone"] += 1
            return False
        self.counters["hit"] += 1
        if not self._judged(entry, verified):
            return False
        entry.used_ns = now_ns
        self._entries.touch(entry)
        self._admission.note(key, now_ns, len(self._entries), is_return=True)
        return True

    # Stores

    def prepare_store(
        self, owner_index: int, key: PsiKey, tokens: int, chain_digest: bytes, length_bytes: int, now_ns: int
    ) -> StoreGrant | StoreRefusal:
        """Reserve blocks, evicting idle entries for them; asked again for the same, the same grant."""
        self._advance(now_ns)
        assert self._owners.is_index_attached(owner_index)
        again = self._stores.same(owner_index, key, tokens, chain_digest, length_bytes)
        if again is not None:
            return StoreGrant(again.generation, again.blocks, again.generation)
        is_return = self._entries.find(key) is None
        self._admission.note(key, now_ns, len(self._entries), is_return=is_return)
        block_count = -(-length_bytes // self._limits.block_bytes)
        refusal = self._refusal(owner_index, key, tokens, chain_digest, block_count, now_ns)
        if refusal is not None:
            self.counters[f"store_{refusal.name.lower()}"] += 1
            return refusal
        self._generations_given += 1
        generation = self._generations_given
        blocks = self._blocks.allocate(block_count, generation, (key.owner.tenant, owner_index))
        assert blocks is not None, "room was made"
        due_ns = now_ns + self._limits.store_ns
        self._stores.add(Store(generation, owner_index, key, tokens, chain_digest, length_bytes, blocks, due_ns))
        self.counters["store_granted"] += 1
        return StoreGrant(generation, blocks, generation)

    def complete_store(self, owner_index: int, store_id: int, written: bool, content: Content, now_ns: int) -> bool:
        """End a store: the writer writes no more. True when this content is visible now."""
        self._advance(now_ns)
        store = self._stores.find(store_id)
        if store is None or store.owner_index != owner_index:
            self.counters["store_gone"] += 1
            return False
        said = (content.tokens, content.chain_digest, content.length_bytes)
        agreed = said == (store.tokens, store.chain_digest, store.length_bytes)
        present = self._entries.find(store.key)
        if not written or not agreed or store.is_doomed or self._stores.staged(store_id) is None:
            self._stores.discard(store)
            self.counters["store_discarded"] += 1
            return False
        if present is not None and _covers(present, store.tokens, store.chain_digest):
            self._stores.discard(store)
            self.counters["store_lost_race"] += 1
            return present.content.chain_digest == store.chain_digest
        self._stores.take(store)
        expires_ns = now_ns + self._limits.entry_age_ns
        entry = Entry(store.generation, store.key, content, store.blocks, expires_ns, now_ns, owner_index)
        self._entries.publish(entry)
        self.counters["store_published"] += 1
        return True

    def evict(self, user: UserKey, now_ns: int) -> int:
        """Forget a user: entries, loads and stores under way, and stores to come for a while."""
        self._advance(now_ns)
        self._tombstones.add(user, now_ns)
        self.counters["forget"] += 1
        return self._entries.forget(user) + self._stores.doom(user)

    # Time

    def handle(self, event: Event, now_ns: int) -> list[Effect]:
        """Take the answer to a probe."""
        self._advance(now_ns)
        match event:
            case LockProbed(owner_index, is_held):
                if not is_held and self._owners.let_go(owner_index):
                    for store in self._stores.of_owner(owner_index):
                        self._stores.discard(store)
        return []

    def deadline_ns(self) -> int | None:
        """When `expire` next has work."""
        pin = next(iter(self._pins.values()), None)
        oldest = self._entries.oldest()
        dues = (
            self._owners.deadline_ns(),
            self._stores.deadline_ns(),
            self._tombstones.deadline_ns(),
            None if pin is None else pin.due_ns,
            None if oldest is None else oldest.expires_ns,
        )
        return min((due for due in dues if due is not None), default=None)

    def expire(self, now_ns: int) -> list[Effect]:
        """End what is over; look at the locks of retired owners."""
        self._advance(now_ns)
        return [ProbeLock(index) for index in self._owners.probes_due(now_ns)]

    def occupancy(self) -> Occupancy:
        """Sizes now."""
        return Occupancy(
            published_blocks=self._entries.published_blocks,
            staging_blocks=self._stores.staging_blocks,
            quarantined_blocks=self._stores.quarantined_blocks,
            doomed_blocks=self._entries.doomed_blocks,
            free_blocks=self._blocks.free_count,
            entries=self._entries.published_count,
            pins=len(self._pins),
            owners=len(self._owners),
            tombstones=len(self._tombstones),
        )

    def check_sums(self) -> None:
        """Assert that every block is in one state, in time that does not grow with the tables."""
        seen = self.occupancy()
        held = seen.published_blocks + seen.doomed_blocks + seen.staging_blocks + seen.quarantined_blocks
        assert held + seen.free_blocks == self._limits.block_count, f"blocks leaked: {seen}"

    def check_touched(self) -> None:
        """Assert what needs no look at the tables: sums and bounds."""
        self.check_sums()
        assert len(self._pins) <= self._limits.pins_max

    def check(self) -> None:
        """Assert the invariants."""
        entries, stores = self._entries.held(), tuple(self._stores.held())
        self._owners.check()
        self._entries.check()
        self._stores.check()
        self._tombstones.check()
        held: list[Entry | Store] = [*entries, *stores]
        self._blocks.check([(one.generation, one.holders, one.blocks) for one in held])
        for holder, count in self._blocks.counts():
            share = self._limits.tenant_blocks_max if isinstance(holder, str) else self._limits.owner_blocks
            assert count <= share, f"{holder} holds more than its share"
        owners = {entry.owner_index for entry in entries}
        are_there = (index is None or self._owners.is_index_attached(index) for index in owners)
        assert all(are_there), "entries counted to one that is gone"
        assert len({one.generation for one in held}) == len(held), "published while staging"
        pins: dict[int, int] = {}
        for pin in self._pins.values():
            pins[pin.entry.generation] = pins.get(pin.entry.generation, 0) + 1
        assert all(entry.pins == pins.get(entry.generation, 0) for entry in entries), "pins are miscounted"
        assert len(self._pins) == sum(entry.pins for entry in entries), "a pin holds an entry that is gone"
        assert len(self._pins) <= self._limits.pins_max
        assert len(entries) <= self._limits.entries_max
        assert all(self._owners.is_index_attached(pin.owner_index) for pin in self._pins.values())
        for store in stores:
            staged = self._stores.staged(store.generation) is not None
            assert not staged or self._owners.is_index_attached(store.owner_index), "staged by nobody"
            assert not self._owners.is_index_free(store.owner_index), "a range of an owner that let go"

    # Inside

    def _judged(self, entry: Entry, verified: bool) -> bool:
        """Whether what was read of an entry may be used; bad bytes end it."""
        if not entry.is_published:
            return False
        if not verified:
            self.counters["corrupt"] += 1
            self._entries.doom(entry)
        return verified

    def _refusal(
        self, owner_index: int, key: PsiKey, tokens: int, chain_digest: bytes, block_count: int, now_ns: int
    ) -> StoreRefusal | None:
        limits = self._limits
        if self._tombstones.covers(key.owner, now_ns):
            return StoreRefusal.FORGOTTEN
        present = self._entries.find(key)
        if present is not None and _covers(present, tokens, chain_digest):
            return StoreRefusal.PRESENT
        if block_count > min(limits.staging_blocks_max, limits.tenant_blocks_max, limits.owner_blocks):
            return StoreRefusal.NO_SPACE
        if not self._stores.admits(owner_index, block_count):
            return StoreRefusal.BUSY
        return self._make_room(owner_index, key, block_count, now_ns)

    def _make_room(self, owner_index: int, key: PsiKey, block_count: int, now_ns: int) -> StoreRefusal | None:
        # Nothing is evicted unless it will be enough, and unless the newcomer may push it out.
        limits = self._limits
        wanted = Wanted(
            blocks=block_count - self._blocks.free_count,
            entries=len(self._entries) + len(self._stores) + 1 - limits.entries_max,
            of_holder={
                owner_index: self._blocks.held_by(owner_index) + block_count - limits.owner_blocks,
                key.owner.tenant: self._blocks.held_by(key.owner.tenant) + block_count - limits.tenant_blocks_max,
            },
        )
        victims = victims_for(wanted, self._entries)
        if victims is None:
            return StoreRefusal.NO_SPACE
        if not self._admission.admits(key, victims, now_ns):
            return StoreRefusal.NOT_YET
        for entry in victims:
            self._entries.evict(entry)
            self.counters["evicted"] += 1
        return None

    def _advance(self, now_ns: int) -> None:
        while (slot := self._owners.lapsed(now_ns)) is not None:
            self.counters["owner_lapsed"] += 1
            self._retire(slot, now_ns)
        while (store := self._stores.overdue(now_ns)) is not None:
            self.counters["store_overdue"] += 1
            self._stores.quarantine(store)
        while (pin := next(iter(self._pins.values()), None)) is not None and pin.due_ns <= now_ns:
            self.counters["pin_expired"] += 1
            self._let_go(pin)
        while (entry := self._entries.oldest()) is not None and entry.expires_ns <= now_ns:
            self.counters["aged"] += 1
            self._entries.doom(entry)
        self._tombstones.expire(now_ns)

    def _retire(self, slot: Slot, now_ns: int) -> None:
        for pin in [pin for pin in self._pins.values() if pin.owner_index == slot.index]:
            self._let_go(pin)
        for store in self._stores.of_owner(slot.index):
            if self._stores.staged(store.generation) is not None:
                self._stores.quarantine(store)
        self._entries.disown(slot.index)
        self._owners.retire(slot, now_ns)

    def _let_go(self, pin: _Pin) -> None:
        del self._pins[pin.pin_id]
        self._entries.unpin(pin.entry)


def _covers(entry: Entry, tokens: int, chain_digest: bytes) -> bool:
    # A longer entry serves a shorter prefix of the same history. One of equal length and another
    # chain is a history that was rewritten: the newer one replaces it.
    if entry.content.tokens != tokens:
        return entry.content.tokens > tokens
    return entry.content.chain_digest == chain_digest
