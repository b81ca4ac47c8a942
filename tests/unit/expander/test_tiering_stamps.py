"""Stamps say who may use which block, and reads without a pin count as uses."""

import pytest

from tests.unit.expander.tiering_host import LIMITS, Host, key_of


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.mark.parametrize("is_pinned", [False, True], ids=["idle", "pinned"])
@pytest.mark.parametrize("how", ["replaced", "aged", "forgotten", "bad"])
def test_blocks_bear_an_entrys_stamp_exactly_while_it_can_be_found(host, how, is_pinned):
    grant = host.store("u")
    bearing = lambda: {block for block, generation in host.stamps.items() if generation == grant.generation}  # noqa: E731
    assert bearing() == set(grant.blocks)
    pin = host.lookup("u") if is_pinned else None
    match how:
        case "replaced":
            host.store("u", tokens=6)
        case "aged":
            host.beat(LIMITS.entry_age_ns)
            host.lookup("other")
        case "forgotten":
            host.core.evict(key_of("u").owner, host.now)
        case "bad":
            assert not host.core.complete_unpinned(host.a, key_of("u"), grant.generation, False, host.now)
    assert not bearing()
    if pin is not None:
        host.end(pin)
    assert not bearing()


def test_a_read_without_a_pin_counts_as_a_use(host):
    first = host.store("u")
    host.store("v")
    host.now = 7
    assert host.core.complete_unpinned(host.a, key_of("u"), first.generation, True, host.now)
    assert host.core.counters["hit"] == 1
    assert [entry.key for entry in host.core._entries.idle()] == [key_of("v"), key_of("u")]
    assert host.core._entries.find(key_of("u")).used_ns == 7


def test_a_read_without_a_pin_of_what_is_gone_changes_nothing(host):
    gone = host.store("u").generation
    host.store("u", tokens=6)
    for verified in (True, False):
        assert not host.core.complete_unpinned(host.a, key_of("u"), gone, verified, host.now)
        assert not host.core.complete_unpinned(host.a, key_of("nobody"), gone, verified, host.now)
    assert host.lookup("u").content.tokens == 6
    assert host.core.counters["unpinned_gone"] == 4 and host.core.counters["corrupt"] == 0


def test_a_read_without_a_pin_leaves_the_pins_of_others(host):
    grant = host.store("u")
    pin = host.lookup("u")
    assert host.core.complete_unpinned(host.b, key_of("u"), grant.generation, True, host.now)
    assert host.core.occupancy().pins == 1 and host.end(pin)
    assert host.free() == 8
