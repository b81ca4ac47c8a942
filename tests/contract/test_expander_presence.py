"""A ranker asks the expander only for what may be there; the calls are counted where they arrive."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relaygr.domain.identity import UserKey
from tests.contract.expander_world import CHAIN, World, empty, expander_world, found, key_of, pages_of, stored, until


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with expander_world(tmp_path) as made:
        yield made


def asked(world: World) -> int:
    """Lookups that reached the expander since its boot."""
    counters = world.tiering.counters
    return counters["miss"] + counters["hit"] + counters["pin_refused"]


async def test_an_absent_key_costs_no_call_and_a_stored_one_is_found(world: World) -> None:
    first, second = await world.ranker("r1"), await world.ranker("r2")
    for tier in (first, second):
        assert await tier.lookup(key_of("u")) is None
    assert asked(world) == 0
    assert await stored(first, key_of("u"), pages_of(1))
    for tier in (first, second):
        assert await tier.load(await found(tier, key_of("u")), empty())
    assert asked(world) == 2
    assert await first.lookup(key_of("v")) is None and asked(world) == 2


async def test_a_key_that_shares_its_slot_is_asked_for_and_missed(world: World) -> None:
    tier = await world.ranker()
    world.share_slot_of(key_of("u"))
    assert await tier.lookup(key_of("u")) is None
    assert (asked(world), world.tiering.counters["miss"]) == (1, 1)


async def test_a_forgotten_user_is_not_asked_for_any_more(world: World) -> None:
    tier = await world.ranker()
    await stored(tier, key_of("u"), pages_of(1))
    await found(tier, key_of("u"))  # pinned: it cannot be found although its blocks are held
    assert await tier.forget(UserKey("t", "u")) == (1, True)
    assert await tier.lookup(key_of("u")) is None and asked(world) == 1


async def test_replaced_evicted_and_aged_entries_leave_a_filter_of_zeros(tmp_path: Path) -> None:
    async with expander_world(tmp_path, entry_age_s=1.0) as world:
        tier = await world.ranker()
        for index in range(40):
            assert await stored(tier, key_of(f"u{index}"), pages_of(index))
        assert await stored(tier, key_of("u39"), pages_of(3, count=4), tokens=400)
        hit = await found(tier, key_of("u39"))
        assert (hit.token_count, hit.chain_digest) == (400, CHAIN)
        await tier.abandon(hit)
        assert world.tiering.counters["evicted"] > 0
        await until(lambda: world.tiering.occupancy().entries == 0)
        before = asked(world)
        assert [await tier.lookup(key_of(f"u{index}")) for index in range(40)] == [None] * 40
        assert asked(world) == before


async def test_a_dropped_corrupt_entry_is_not_asked_for_any_more(world: World) -> None:
    tier = await world.ranker()
    await stored(tier, key_of("u"), pages_of(1))
    hit = await found(tier, key_of("u"))
    hit.content_digest = bytes(16)
    assert not await tier.load(hit, empty())
    assert await tier.lookup(key_of("u")) is None and asked(world) == 1


async def test_the_filter_of_a_new_boot_knows_nothing_of_the_last(world: World) -> None:
    tier = await world.ranker()
    await stored(tier, key_of("u"), pages_of(1))
    await world.stop()
    await until(lambda: not tier.is_attached)
    await world.start()
    await until(lambda: tier.is_attached)
    assert await tier.lookup(key_of("u")) is None and asked(world) == 0
    await stored(tier, key_of("u"), pages_of(1))
    assert await tier.load(await found(tier, key_of("u")), empty()) and asked(world) == 1
