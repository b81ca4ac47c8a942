"""The DRAM tier's rules, one by one."""

from __future__ import annotations

import pytest

from relaygr.domain.identity import UserKey
from services.expander.core.effects import ProbeLock, StoreGrant, StoreRefusal
from services.expander.core.events import LockProbed
from tests.unit.expander.tiering_host import CHAIN, Host, key_of


@pytest.fixture
def host() -> Host:
    return Host()


def test_a_store_is_invisible_until_complete(host):
    grant = host.prepare()
    assert host.lookup() is None
    assert host.complete(grant)
    found = host.lookup()
    assert found.generation == grant.generation
    load = host.core.prepare_load(host.a, found.pin_id, host.now)
    assert (load.blocks, load.generation, load.content.producer_trace) == (grant.blocks, grant.generation, "trace")


def test_a_failed_store_is_never_visible(host):
    assert not host.complete(host.prepare(), written=False)
    assert host.lookup() is None and host.free() == 10


def test_a_store_ends_once(host):
    grant = host.prepare()
    assert host.complete(grant)
    assert not host.complete(grant)
    assert not host.complete(grant, written=False)
    assert host.lookup() is not None


def test_a_content_other_than_prepared_is_discarded(host):
    assert not host.complete(host.prepare(tokens=5), tokens=6)
    assert not host.complete(host.prepare(chain=b"x"), chain=b"y")
    assert host.lookup() is None and host.free() == 10


def test_a_store_is_private_to_its_writer(host):
    grant = host.prepare(by=host.a)
    assert not host.complete(grant, by=host.b)
    assert host.complete(grant, by=host.a), "and the other's attempt did it no harm"


def test_two_writers_of_one_key_have_blocks_of_their_own_and_the_first_wins(host):
    first, second = host.prepare(by=host.a), host.prepare(by=host.b)
    assert not set(first.blocks) & set(second.blocks)
    assert host.complete(second, by=host.b)
    assert host.complete(first), "the same content is visible"
    assert host.lookup().generation == second.generation
    assert host.free() == 8


def test_a_repeated_request_is_granted_once(host):
    assert host.prepare() == host.prepare()
    assert host.free() == 8
    assert host.prepare(tokens=6) != host.prepare(tokens=5)


def test_present_is_never_said_without_a_pin(host):
    host.store()
    assert host.lookup() is not None and host.core.occupancy().pins == 1
    for _ in range(10):
        host.lookup()
    assert host.core.occupancy().pins == 4 and host.lookup() is None, "no pin left, so not found"


def test_a_pin_ends_once_and_only_by_its_owner(host):
    host.store()
    found = host.lookup()
    assert not host.core.complete_load(host.b, found.pin_id, True, host.now)
    assert host.core.prepare_load(host.b, found.pin_id, host.now) is None
    assert host.end(found)
    assert not host.end(found)
    host.core.check()


def test_an_expired_pin_did_not_hold(host):
    host.store()
    found = host.lookup()
    host.beat(50)
    assert host.core.prepare_load(host.a, found.pin_id, host.now) is None
    assert not host.end(found)
    assert host.core.counters["pin_expired"] == 1


def test_nothing_pinned_is_evicted_or_reused(host):
    pinned = host.store("u", blocks=4)
    found = host.lookup("u")
    assert host.prepare("v", blocks=8) is StoreRefusal.NO_SPACE
    assert host.core.counters["evicted"] == 0, "and nothing is evicted for a store that will not fit"
    other = host.store("v", blocks=6)
    assert not set(other.blocks) & set(pinned.blocks)
    assert host.end(found)
    assert isinstance(host.prepare("w", blocks=8), StoreGrant)


def test_the_least_recently_used_goes_first():
    host = Host(pinned_blocks_max=10)
    for user in "abc":
        host.store(user, blocks=3)
    host.end(host.lookup("a"))
    host.store("d", blocks=3)
    assert [host.lookup(user) is not None for user in "abcd"] == [True, False, True, True]


def test_pins_never_take_the_last_of_the_segment(host):
    host.store("u", blocks=5)
    host.store("v", blocks=5)
    assert host.lookup("u") and host.lookup("u")
    assert host.lookup("v") is None, "5 + 5 blocks are more than may be pinned"
    assert isinstance(host.prepare("w", blocks=5), StoreGrant)


def test_a_longer_entry_replaces_a_shorter_one_and_a_shorter_is_refused(host):
    host.store(tokens=5)
    old = host.lookup()
    new = host.store(tokens=6)
    assert host.prepare(tokens=5) is StoreRefusal.PRESENT
    assert host.prepare(tokens=6) is StoreRefusal.PRESENT
    assert host.lookup().generation == new.generation
    assert host.core.occupancy().doomed_blocks == 2
    assert not host.end(old), "who found the old one may not use it any more"
    assert host.core.counters["corrupt"] == 0
    assert host.core.occupancy().doomed_blocks == 0 and host.free() == 8


def test_a_rewritten_history_of_equal_length_replaces(host):
    host.store(tokens=5)
    grant = host.prepare(tokens=5, chain=b"x")
    assert host.complete(grant, tokens=5, chain=b"x")
    assert host.lookup().content.chain_digest == b"x"


def test_a_bad_digest_drops_the_entry_for_everybody(host):
    host.store()
    first, second = host.lookup(), host.lookup()
    assert not host.end(first, verified=False)
    assert host.lookup() is None
    assert host.core.prepare_load(host.a, second.pin_id, host.now) is None
    assert not host.end(second)
    assert host.free() == 10 and host.core.counters["corrupt"] == 1


def test_a_store_beyond_its_quota_evicts_its_own_tenants_entries():
    host = Host(tenant_blocks_max=6, pinned_blocks_max=10)
    other = host.core.prepare_store(host.b, key_of("u", "other"), 5, CHAIN, 30, host.now)
    assert host.complete(other, by=host.b)
    host.store("u", blocks=3)
    host.store("v", blocks=3)
    host.store("w", blocks=3)
    assert [host.lookup(user) is not None for user in "uvw"] == [False, True, True]
    assert host.core.lookup(host.a, key_of("u", "other"), host.now) is not None
    assert host.prepare("x", blocks=7) is StoreRefusal.NO_SPACE


@pytest.mark.parametrize("changes", [{"stores_max": 2, "stores_per_owner_max": 2}, {"stores_per_owner_max": 2}])
def test_stores_in_flight_are_bounded(changes):
    host = Host(**changes)
    host.prepare("u", 1), host.prepare("v", 1)
    assert host.prepare("w", 1) is StoreRefusal.BUSY
    other = host.prepare("w", 1, by=host.b)
    assert (other is StoreRefusal.BUSY) == ("stores_max" in changes)


def test_bytes_in_flight_are_bounded(host):
    assert host.prepare("u", 9) is StoreRefusal.NO_SPACE
    host.prepare("u", 5)
    assert host.prepare("v", 4, by=host.b) is StoreRefusal.BUSY
    assert isinstance(host.prepare("v", 3, by=host.b), StoreGrant)


def test_entries_are_bounded():
    host = Host(entries_max=2)
    host.store("a", 1), host.store("b", 1), host.store("c", 1)
    assert host.core.occupancy().entries == 2 and host.lookup("a") is None


def test_forgetting_ends_entries_loads_and_stores_under_way(host):
    host.store("u")
    found, grant = host.lookup("u"), host.prepare("u", tokens=9)
    host.store("v")
    assert host.core.evict(UserKey("t", "u"), host.now) == 2
    assert host.lookup("u") is None
    assert host.core.prepare_load(host.a, found.pin_id, host.now) is None
    assert not host.end(found)
    assert not host.complete(grant, tokens=9)
    assert host.prepare("u") is StoreRefusal.FORGOTTEN
    assert host.lookup("v") is not None and host.free() == 8


def test_a_tombstone_ends(host):
    host.core.evict(UserKey("t", "u"), host.now)
    host.beat(499)
    assert host.prepare("u") is StoreRefusal.FORGOTTEN
    host.beat(500)
    assert isinstance(host.prepare("u"), StoreGrant)
    assert host.core.occupancy().tombstones == 0


def test_with_more_tombstones_than_fit_nobody_is_stored_until_the_oldest_ends(host):
    for user in ("u", "v", "w"):
        host.core.evict(UserKey("t", user), host.now)
        host.beat(host.now + 20)
    assert host.prepare("u") is StoreRefusal.FORGOTTEN, "though its own tombstone had to go"
    assert host.prepare("x") is StoreRefusal.FORGOTTEN
    host.beat(500)
    assert isinstance(host.prepare("u"), StoreGrant)
    assert host.prepare("w") is StoreRefusal.FORGOTTEN


def test_every_entry_has_a_greatest_age(host):
    host.store("u")
    host.beat(980)
    found = host.lookup("u")
    host.beat(1_000)
    assert host.lookup("u") is None
    assert not host.end(found), "a load that had begun is of no use"
    assert host.free() == 10


def test_a_silent_owners_pins_are_released_and_its_stores_quarantined(host):
    host.store()
    host.now = 90
    found, grant = host.lookup(), host.prepare("v", 3)
    host.attach("b")
    host.now = 100
    assert not host.core.is_attached("a", host.a, host.now)
    assert host.core.is_attached("b", host.b, host.now)
    seen = host.core.occupancy()
    assert (seen.pins, seen.staging_blocks, seen.quarantined_blocks) == (0, 0, 3)
    assert not host.end(found)
    assert not host.complete(grant), "whatever it says when it wakes up"
    assert host.core.occupancy().entries == 1


def test_quarantined_blocks_go_to_nobody_until_the_lock_is_free(host):
    grant = host.prepare("v", 3)
    host.now = 90
    host.attach("b")
    host.now = 100
    assert host.core.expire(host.now) == [ProbeLock(host.a)]
    host.core.handle(LockProbed(host.a, is_held=True), host.now)
    for user in "xyz":
        other = host.prepare(user, 3, by=host.b)
        assert not set(other.blocks) & set(grant.blocks)
        host.complete(other, by=host.b)
    assert host.core.expire(host.now) == [] and host.core.deadline_ns() == 110
    host.now = 110
    assert host.core.expire(host.now) == [ProbeLock(host.a)]
    host.core.handle(LockProbed(host.a, is_held=False), host.now)
    assert host.core.occupancy().quarantined_blocks == 0
    host.core.check()


def test_a_retired_index_never_comes_back_to_life(host):
    host.prepare("v", 3)
    host.now = 100
    index = host.attach("a")
    assert index not in (host.a, host.b)
    assert not host.core.is_attached("a", host.a, host.now)
    host.core.handle(LockProbed(index, is_held=False), host.now)
    assert host.core.is_attached("a", index, host.now), "an answer about an attached index changes nothing"


def test_a_restarted_owner_inherits_nothing(host):
    host.store()
    found, grant = host.lookup(), host.prepare("v", 3)
    index = host.attach("a", epoch=2)
    assert index != host.a
    assert not host.core.complete_load(index, found.pin_id, True, host.now)
    assert not host.complete(grant, by=index)
    assert host.core.occupancy().quarantined_blocks == 3, "its former process may still be there"


def test_an_overdue_store_is_quarantined_until_its_writer_says_it_has_ended(host):
    grant = host.prepare("v", 3)
    host.now = 60
    assert host.core.is_attached("a", host.a, host.now)
    assert host.core.occupancy().quarantined_blocks == 3
    assert not host.complete(grant)
    assert host.free() == 10


def test_an_owner_with_an_overdue_store_gets_another_index_at_its_next_heartbeat(host):
    host.prepare("v", 3)
    host.now = 60
    index = host.attach("a")
    assert index != host.a
    assert host.core.expire(host.now) == [ProbeLock(host.a)]
    host.core.handle(LockProbed(host.a, is_held=False), host.now)
    assert host.free() == 10 and host.attach("a") == index


def test_owners_are_bounded_and_an_index_is_reused_only_when_let_go(host):
    assert host.attach("c") is not None
    assert host.attach("d") is None
    host.now = 100  # all three are silent
    assert host.attach("d") is None
    for effect in host.core.expire(host.now):
        host.core.handle(LockProbed(effect.owner_index, effect.owner_index != 1), host.now)
    assert host.attach("d") == 1


def test_check_finds_a_leak(host):
    host.store()
    host.core._blocks._holder.append(0)
    with pytest.raises(AssertionError):
        host.core.check()
    with pytest.raises(AssertionError):
        host.core.check_sums()


def test_check_finds_a_lost_pin(host):
    host.store()
    host.lookup()
    host.core._pins.clear()
    with pytest.raises(AssertionError):
        host.core.check()
