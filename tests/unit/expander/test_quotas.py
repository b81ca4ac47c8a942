"""What one ranker may hold, and what becomes of the count when it is gone."""

from __future__ import annotations

import pytest

from relaygr.domain.identity import UserKey
from services.expander.core.effects import StoreGrant, StoreRefusal
from services.expander.core.events import LockProbed
from tests.unit.expander.test_tiering import Host, key_of


@pytest.fixture
def host() -> Host:
    return Host(owner_blocks_max=6, pinned_blocks_max=10)


def counted(host: Host, index: int) -> int:
    host.core.check()
    return host.core._blocks.held_by(index)


def store_by_other(host: Host, user: str, blocks: int = 3) -> None:
    grant = host.prepare(user, blocks, by=host.b)
    assert isinstance(grant, StoreGrant) and host.complete(grant, by=host.b)


def test_a_store_beyond_its_rankers_share_evicts_what_that_ranker_stored(host):
    store_by_other(host, "other")
    for user in "uvw":
        host.store(user, blocks=3)
    assert [host.lookup(user) is not None for user in ("other", "u", "v", "w")] == [True, False, True, True]
    assert (counted(host, host.a), counted(host, host.b)) == (6, 3)


def test_a_store_larger_than_a_share_is_refused(host):
    assert host.prepare(blocks=7) is StoreRefusal.NO_SPACE


def test_stores_in_flight_count_and_nothing_is_evicted_when_it_would_not_be_enough(host):
    host.prepare("u", 4)
    host.store("v", blocks=2)
    assert host.prepare("w", 3) is StoreRefusal.NO_SPACE
    assert host.core.counters["evicted"] == 0 and counted(host, host.a) == 6
    assert isinstance(host.prepare("w", 3, by=host.b), StoreGrant), "another has its own share"


def test_what_is_pinned_is_not_evicted_for_a_share(host):
    host.store("u", blocks=3)
    found = host.lookup("u")
    host.store("v", blocks=3)
    host.store("w", blocks=3)
    assert host.lookup("v") is None
    assert host.end(found) and counted(host, host.a) == 6


def test_a_share_and_a_tenants_share_are_both_kept():
    host = Host(owner_blocks_max=6, tenant_blocks_max=7, pinned_blocks_max=10)
    store_by_other(host, "other")
    host.store("u", blocks=3)
    host.store("v", blocks=3)
    assert [host.lookup(user) is not None for user in ("other", "u", "v")] == [False, True, True]


def test_forgetting_and_ageing_give_a_share_back(host):
    host.store("u", blocks=3)
    host.core.evict(UserKey("t", "u"), host.now)
    assert counted(host, host.a) == 0
    host.store("v", blocks=3)
    host.beat(1_000)
    assert counted(host, host.a) == 0


def test_entries_of_a_ranker_that_is_gone_stay_and_are_counted_to_nobody(host):
    host.store("u", blocks=3)
    host.prepare("v", 2)
    host.now = 90
    host.attach("b")
    host.now = 100
    assert not host.core.is_attached("a", host.a, host.now)
    assert counted(host, host.a) == 2, "a range in quarantine is still its own"
    assert host.core.lookup(host.b, key_of("u"), host.now) is not None
    host.core.expire(host.now)
    host.core.handle(LockProbed(host.a, is_held=False), host.now)
    assert counted(host, host.a) == 0 and host.core.occupancy().published_blocks == 3


def test_a_ranker_that_restarts_begins_with_a_whole_share(host):
    host.store("u", blocks=4)
    index = host.attach("a", epoch=2)
    grant = host.prepare("v", 6, by=index)
    assert isinstance(grant, StoreGrant) and host.complete(grant, by=index)
    assert host.core.lookup(index, key_of("u"), host.now) is not None and counted(host, index) == 6


def test_check_finds_a_miscounted_share(host):
    host.store("u", blocks=3)
    host.core._blocks._held_by[host.a] -= 1
    with pytest.raises(AssertionError):
        host.core.check()
