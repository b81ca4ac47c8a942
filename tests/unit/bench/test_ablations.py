"""Modes name what can be started; a pool keeps to its budget."""

import importlib.util

import pytest

from bench.load.ablations.modes import MODES
from bench.load.ablations.pool import Entry, Pool
from bench.load.ablations.pool_wire import key_bytes, owner_bytes
from relaygr.domain.identity import PsiKey, UserKey

SERVICES = {"trigger", "router", "ranker", "expander"}


@pytest.mark.parametrize("mode", MODES.values(), ids=lambda mode: mode.name)
def test_a_mode_replaces_services_by_modules_that_are_there(mode):
    assert mode.what.endswith(".")
    assert set(mode.commands) <= SERVICES and set(mode.without) <= {"expander", "console"}
    assert not set(mode.commands) & set(mode.without)
    for flag, module, *_ in mode.commands.values():
        assert flag == "-m" and importlib.util.find_spec(module) is not None


def test_the_modes_are_those_that_a_report_compares():
    names = ["full", "relay", "relay_dram", "no_trigger", "no_affinity", "ring_hash", "remote_pool"]
    assert list(MODES) == names
    assert [name for name, mode in MODES.items() if not mode.has_arrive] == ["full"]


def entry(size):
    return Entry((bytes(size),), b"content", size)


def test_the_pool_gives_up_what_was_asked_for_longest_ago():
    pool = Pool(100)
    assert all(pool.put(name, entry(40)) for name in (b"a", b"b"))
    assert pool.find(b"a") is not None
    assert pool.put(b"c", entry(40))
    assert [pool.find(name) is not None for name in (b"a", b"b", b"c")] == [True, False, True]
    assert pool.counters()["used_bytes"] == 80 and pool.counters()["evicted"] == 1


def test_the_pool_replaces_an_entry_and_refuses_one_beyond_its_budget():
    pool = Pool(100)
    assert pool.put(b"a", entry(90)) and pool.put(b"a", entry(100))
    assert not pool.put(b"b", entry(101))
    assert pool.counters()["used_bytes"] == 100 and pool.counters()["stores_refused"] == 1


def test_a_forgotten_user_takes_nobody_of_a_longer_name_along():
    pool, names = Pool(100), ("ann", "anna")
    for name in names:
        pool.put(key_bytes(PsiKey(UserKey("default", name), "model", 0)), entry(10))
    assert pool.forget(owner_bytes(UserKey("default", "ann"))) == 1
    assert pool.counters()["entries"] == 1
