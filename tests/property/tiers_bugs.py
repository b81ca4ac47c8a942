"""Bugs that the machine must find: each breaks one thing in the cores, the segment or the adapters' order."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from relaygr.segment import ContentDigest, MappedSegment, OwnedSegment, owned
from services.expander.core.blocks import Blocks
from services.expander.core.effects import StoreGrant
from services.expander.core.entries import Entries
from services.expander.core.stores import Stores
from services.expander.core.tiering import Tiering
from services.expander.core.tombstones import Tombstones
from services.ranker.adapters.dram_known import KnownEntries
from services.ranker.core import asking, ranking
from services.ranker.core import events as ev
from services.ranker.core.entries import Entry
from services.ranker.core.holding import Holding
from services.ranker.core.lifecycle import PsiState
from services.ranker.core.production import Production
from services.ranker.core.residency import Residency
from tests.property.tiers_callers import Callers
from tests.property.tiers_dram import DramSide

Patch = pytest.MonkeyPatch
Bug = Callable[[Patch], None]


def a_digest_that_says_nothing(patch: Patch) -> None:
    patch.setattr(ContentDigest, "digest", lambda self: bytes(16))


def a_reader_does_not_look_at_generations(patch: Patch) -> None:
    patch.setattr(MappedSegment, "owns", lambda self, blocks, generation: True)


def blocks_are_not_stamped(patch: Patch) -> None:
    patch.setattr(OwnedSegment, "stamp", lambda self, blocks, generation: None)


def forgotten_blocks_keep_their_stamp(patch: Patch) -> None:
    patch.setattr(Blocks, "revoke", lambda self, blocks, generation: None)


def a_pinned_entry_keeps_its_stamp_when_it_is_replaced(patch: Patch) -> None:
    doom = Entries.doom

    def lenient(self, entry):
        with pytest.MonkeyPatch.context() as within:
            if entry.pins:
                within.setattr(Blocks, "revoke", lambda self, blocks, generation: None)
            doom(self, entry)

    patch.setattr(Entries, "doom", lenient)


def what_is_remembered_is_believed(patch: Patch) -> None:
    find = KnownEntries.find

    def trusting(self, segment, key):
        with pytest.MonkeyPatch.context() as within:
            within.setattr(MappedSegment, "owns", lambda self, blocks, generation: True)
            return find(self, segment, key)

    patch.setattr(KnownEntries, "find", trusting)


def freed_blocks_keep_their_stamp(patch: Patch) -> None:
    patch.setattr(OwnedSegment, "clear", lambda self, blocks: None)


def a_dead_expanders_grants_live_on(patch: Patch) -> None:
    patch.setattr(owned, "_clear_generations", lambda fd: None)


def quarantine_is_skipped(patch: Patch) -> None:
    patch.setattr(Stores, "quarantine", Stores.discard)


def an_owner_that_lapsed_keeps_its_pins(patch: Patch) -> None:
    def retire(self, slot, now_ns):
        for store in self._stores.of_owner(slot.index):
            if self._stores.staged(store.generation) is not None:
                self._stores.quarantine(store)
        self._owners.retire(slot, now_ns)

    patch.setattr(Tiering, "_retire", retire)


def pins_never_expire(patch: Patch) -> None:
    lookup = Tiering.lookup

    def endless(self, owner_index, key, now_ns):
        found = lookup(self, owner_index, key, now_ns)
        if found is not None:
            self._pins[found.pin_id].due_ns = 1 << 62
        return found

    patch.setattr(Tiering, "lookup", endless)


def the_expanders_tombstones_are_ignored(patch: Patch) -> None:
    patch.setattr(Tombstones, "covers", lambda self, user, now_ns: False)


def a_store_under_way_outlives_its_user(patch: Patch) -> None:
    patch.setattr(Stores, "doom", lambda self, user: 0)


def a_store_is_published_unfinished(patch: Patch) -> None:
    complete_store = Tiering.complete_store

    def hasty(self, owner_index, store_id, written, content, now_ns):
        return complete_store(self, owner_index, store_id, True, content, now_ns)

    patch.setattr(Tiering, "complete_store", hasty)


def a_store_is_visible_when_it_is_granted(patch: Patch) -> None:
    prepare_store = Tiering.prepare_store

    def hasty(self, owner_index, key, tokens, chain_digest, length_bytes, now_ns):
        answer = prepare_store(self, owner_index, key, tokens, chain_digest, length_bytes, now_ns)
        if isinstance(answer, StoreGrant):
            self._entries._presence.add(key)
        return answer

    patch.setattr(Tiering, "prepare_store", hasty)


def a_store_is_published_twice(patch: Patch) -> None:
    publish = Entries.publish

    def twice(self, entry):
        publish(self, entry)
        publish(self, entry)

    patch.setattr(Entries, "publish", twice)


def a_bad_load_leaves_the_entry_there(patch: Patch) -> None:
    complete_load = Tiering.complete_load

    def lenient(self, owner_index, pin_id, verified, now_ns):
        return complete_load(self, owner_index, pin_id, True, now_ns)

    patch.setattr(Tiering, "complete_load", lenient)


def what_a_lookup_found_is_not_compared(patch: Patch) -> None:
    patch.setattr(Production, "_is_usable", lambda self, entry, event: 0 < event.tokens <= entry.goal_tokens)


def histories_are_not_compared_token_by_token(patch: Patch) -> None:
    patch.setattr(ranking, "usable_tokens", lambda held, complete, asked: min(complete, asked.token_count))


def a_cut_back_psi_keeps_too_much(patch: Patch) -> None:
    patch.setattr(asking, "usable_tokens", lambda held, complete, asked: min(complete, asked.token_count) - 1)


def an_append_does_not_wait_for_the_copy(patch: Patch) -> None:
    def settle(self, entry, cause):
        if entry.job_id is None and entry.goal_tokens > entry.tokens:
            entry.state = PsiState.PRODUCING if entry.state == PsiState.SPILLING else entry.state
            self._begin(entry, cause)
        elif entry.job_id is None and not entry.spilling_tokens and entry.state != PsiState.RESIDENT:
            self._come_to_rest(entry, cause)

    patch.setattr(Production, "settle", settle)


def pages_of_a_copy_are_free_before_it_ends(patch: Patch) -> None:
    def is_held(self):
        states = (PsiState.RESIDENT, PsiState.SPILLING)
        return bool(self.state not in states or self.tickets or self.joiners or self.leases)

    patch.setattr(Entry, "is_held", property(is_held))


def eviction_does_not_ask_for_tickets(patch: Patch) -> None:
    def is_held(self):
        return bool(self.state != PsiState.RESIDENT or self.joiners or self.leases)

    patch.setattr(Entry, "is_held", property(is_held))


def idle_pages_are_miscounted(patch: Patch) -> None:
    def unlist(self, entry):
        entry.is_idle = False
        self._books.policy.remove(entry.entry_id)

    patch.setattr(Holding, "_unlist", unlist)


def a_lease_ends_with_the_call_and_not_with_the_compute(patch: Patch) -> None:
    patch.setattr(Callers, "hang_up", lambda self, rank_id: self._ranker.feed(ev.RankAbandoned(rank_id)))


def a_wait_has_no_alarm(patch: Patch) -> None:
    patch.setattr(ranking.Ranking, "_wait_until_ns", lambda self, rank, entry, now_ns: 1 << 62)


def a_window_never_closes(patch: Patch) -> None:
    release = Residency._close

    def close(self, ticket_id, closing, now_ns):
        if closing.value != "expired":
            release(self, ticket_id, closing, now_ns)

    patch.setattr(Residency, "_close", close)


def the_lock_goes_before_the_copies_end(patch: Patch) -> None:
    def drop(self):
        attachment, self.held = self.held, None
        if attachment is not None:
            attachment.is_ended = True
            attachment.lock.release()

    patch.setattr(DramSide, "drop", drop)


BUGS: tuple[Bug, ...] = (
    a_digest_that_says_nothing,
    a_reader_does_not_look_at_generations,
    blocks_are_not_stamped,
    forgotten_blocks_keep_their_stamp,
    a_pinned_entry_keeps_its_stamp_when_it_is_replaced,
    what_is_remembered_is_believed,
    freed_blocks_keep_their_stamp,
    quarantine_is_skipped,
    pins_never_expire,
    the_expanders_tombstones_are_ignored,
    a_store_is_published_unfinished,
    a_store_is_visible_when_it_is_granted,
    a_store_is_published_twice,
    a_bad_load_leaves_the_entry_there,
    what_a_lookup_found_is_not_compared,
    histories_are_not_compared_token_by_token,
    a_cut_back_psi_keeps_too_much,
    pages_of_a_copy_are_free_before_it_ends,
    eviction_does_not_ask_for_tickets,
    idle_pages_are_miscounted,
    a_lease_ends_with_the_call_and_not_with_the_compute,
    a_wait_has_no_alarm,
    a_window_never_closes,
    the_lock_goes_before_the_copies_end,
)

RARE_BUGS: tuple[Bug, ...] = (
    an_owner_that_lapsed_keeps_its_pins,
    a_store_under_way_outlives_its_user,
    an_append_does_not_wait_for_the_copy,
    a_dead_expanders_grants_live_on,
)
"""Those that need several things at once: some hundreds of worlds may pass without."""
