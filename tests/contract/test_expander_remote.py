"""Rankers of another host: the same entries, under the same promises, over streams."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from relaygr.domain.identity import UserKey
from relaygr.v1 import expander_pb2
from services.ranker.adapters.dram_remote_reach import RemoteCost
from tests.contract.expander_world import ROOT, empty, key_of, pages_of, same, stored, until
from tests.contract.remote_world import (
    FIND,
    FINISH,
    LONG,
    LONG_BYTES,
    TAKE,
    RemoteWorld,
    begin_of,
    chunk_of,
    long_pages,
    remote_world,
)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[RemoteWorld]:
    async with remote_world(tmp_path) as made:
        yield made


async def test_what_one_remote_ranker_stored_another_fetches(world: RemoteWorld) -> None:
    first, second = await world.remote(), await world.remote()
    assert await stored(first, key_of("u"), pages_of(1))
    hit, pages = await second.lookup(key_of("u")), empty()
    assert hit is not None and (hit.token_count, hit.length_bytes) == (300, 30_000)
    assert hit.producer_traceparent.startswith("00-1111")
    assert await second.load(hit, pages) and same(pages, pages_of(1))
    await until(lambda: world.is_at_rest)


async def test_an_entry_of_many_chunks_arrives_whole(tmp_path: Path) -> None:
    async with remote_world(tmp_path, **LONG) as world:
        tier, pages = await world.remote(fetch_timeout_s=20), [np.zeros(LONG_BYTES // 7, np.uint8) for _ in range(7)]
        pages.append(np.zeros(LONG_BYTES % 7, np.uint8))
        assert await stored(tier, key_of("u"), long_pages())
        assert await tier.load(await tier.lookup(key_of("u")), pages)
        assert np.array_equal(np.concatenate(pages), long_pages()[0])
        assert world.transfer._metrics.moved_bytes == {"STORE": LONG_BYTES, "FETCH": LONG_BYTES}


async def test_local_and_remote_rankers_share_one_tier(world: RemoteWorld) -> None:
    local, remote = await world.ranker(), await world.remote()
    assert await stored(local, key_of("u"), pages_of(1))
    assert await stored(remote, key_of("v"), pages_of(2))
    for tier, user, seed in ((remote, "u", 1), (local, "v", 2)):
        pages = empty()
        assert await tier.load(await tier.lookup(key_of(user)), pages) and same(pages, pages_of(seed))


async def test_an_absent_key_is_a_miss_and_an_abandoned_one_is_let_go(world: RemoteWorld) -> None:
    tier = await world.remote()
    assert tier.may_hold(key_of("u")) and await tier.lookup(key_of("u")) is None
    await stored(tier, key_of("u"), pages_of(1))
    hit = await tier.lookup(key_of("u"))
    assert hit is not None and world.tiering.occupancy().pins == 1, "found is said with a hold"
    await tier.abandon(hit)
    assert not await tier.load(hit, empty())
    await until(lambda: world.is_at_rest)


async def test_the_same_content_stored_again_is_there_already(world: RemoteWorld) -> None:
    tier = await world.remote()
    assert await stored(tier, key_of("u"), pages_of(1)) and await stored(tier, key_of("u"), pages_of(1))
    assert world.tiering.counters["store_published"] == 1
    assert world.tiering.counters["store_present"] == 1


async def test_two_stores_of_one_key_never_share_a_grant(world: RemoteWorld) -> None:
    """The core repeats a grant that one owner asks for twice, and here one owner asks for everybody."""
    first, second = world.streams.Store(timeout=10), world.streams.Store(timeout=10)
    answers = []
    for call in (first, second):
        await call.write(begin_of(b"the same"))
        answers.append((await call.read()).grant.refusal)
    assert answers == [expander_pb2.STORE_REFUSAL_UNSPECIFIED, expander_pb2.STORE_REFUSAL_BUSY]
    await first.write(chunk_of(b"the same"))
    await first.done_writing()
    assert (await first.read()).outcome.published


async def test_bytes_that_changed_in_the_segment_are_found_and_dropped(world: RemoteWorld) -> None:
    tier = await world.remote()
    await stored(tier, key_of("u"), pages_of(1))
    hit = await tier.lookup(key_of("u"))
    assert hit is not None
    for block in range(world.segment.geometry.block_count):
        world.owner.segment.block(block)[7] ^= 1
    assert not await tier.load(hit, empty())
    assert world.tiering.counters["corrupt"] == 1
    assert await tier.lookup(key_of("u")) is None
    await until(lambda: world.is_at_rest)


@pytest.mark.parametrize("what", ["fetch", "store"])
async def test_a_caller_that_is_killed_half_way_leaves_nothing_held(tmp_path: Path, what: str) -> None:
    async with remote_world(tmp_path, pin_ms=30_000.0, **LONG) as world:
        if what == "fetch":
            await stored(await world.remote(), key_of("u"), long_pages())
        command = [sys.executable, "-m", "tests.contract.expander_remote_process", world.address, what]
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220 - a start is short
        try:
            assert child.stdout is not None
            assert "half-way" in await asyncio.wait_for(asyncio.to_thread(child.stdout.readline), 30)
            assert not world.is_at_rest
        finally:
            child.kill()
            child.wait(10)
            child.stdout.close()
        await until(lambda: world.is_at_rest)
        assert world.tiering.occupancy().entries == (1 if what == "fetch" else 0)


async def test_an_expander_that_restarts_is_reached_again_and_has_nothing(world: RemoteWorld) -> None:
    heard: list[bool] = []
    costs: list[RemoteCost] = []
    tier = await world.remote(on_measured=costs.append)
    tier._reach._on_attached = heard.append
    await stored(tier, key_of("u"), pages_of(1))
    await world.stop()
    await until(lambda: not tier.is_attached)
    assert await tier.lookup(key_of("u")) is None and not tier.may_hold(key_of("u"))
    assert await tier.forget(UserKey("t", "u")) == (0, False)
    assert not await stored(tier, key_of("u"), pages_of(1))
    await world.start()
    await until(lambda: tier.is_attached)
    assert heard == [False, True] and len(costs) == 2, "what was stored there is gone, and it is timed anew"
    assert all(cost.fixed_ns > 0 and cost.byte_ns >= 0 for cost in costs)
    assert await tier.lookup(key_of("u")) is None
    assert await stored(tier, key_of("u"), pages_of(1))


async def test_another_boot_at_the_same_address_is_a_tier_that_came_anew(world: RemoteWorld) -> None:
    tier, heard = await world.remote(), []
    tier._reach._on_attached = heard.append
    tier._reach._boot_id = "the one before"
    await until(lambda: len(heard) == 2)
    assert heard == [False, True]


async def test_a_user_forgotten_between_lookup_and_load_is_not_loaded(world: RemoteWorld) -> None:
    tier = await world.remote()
    await stored(tier, key_of("u"), pages_of(1))
    hit = await tier.lookup(key_of("u"))
    assert hit is not None and await tier.forget(UserKey("t", "u")) == (1, True)
    assert not await tier.load(hit, empty())
    assert not await stored(tier, key_of("u"), pages_of(1)), "and not stored for a while"
    await until(lambda: world.is_at_rest)


async def test_a_user_forgotten_in_the_middle_of_a_fetch_is_sent_no_further(tmp_path: Path) -> None:
    async with remote_world(tmp_path, **LONG) as world:
        assert await stored(await world.remote(), key_of("u"), long_pages())
        call = world.streams.Fetch(timeout=20)
        for step in (FIND, TAKE):
            await call.write(step)
            await call.read()
        world.tiering.evict(UserKey("t", "u"), time.monotonic_ns())
        while (message := await call.read()).HasField("chunk"):
            pass
        assert not message.end.held and world.transfer._metrics.moved_bytes["FETCH"] < LONG_BYTES
        await until(lambda: world.is_at_rest)


async def test_a_load_into_pages_of_another_length_is_refused_and_ends_its_pin(tmp_path: Path) -> None:
    async with remote_world(tmp_path, pin_ms=60_000.0) as world:
        tier = await world.remote(fetch_timeout_s=60)
        await stored(tier, key_of("u"), pages_of(1))
        assert not await tier.load(await tier.lookup(key_of("u")), empty(2))
        await until(lambda: world.is_at_rest)


async def test_a_user_forgotten_after_the_last_byte_and_before_the_end_is_not_held(world: RemoteWorld) -> None:
    tier = await world.remote()
    await stored(tier, key_of("u"), pages_of(1))
    hit = await tier.lookup(key_of("u"))
    assert hit is not None
    real = hit.stream.write

    async def late(message: object) -> None:
        if message == FINISH:
            await tier.forget(UserKey("t", "u"))
        await real(message)

    hit.stream.write = late
    assert not await tier.load(hit, empty())


async def test_a_user_forgotten_in_the_middle_of_a_store_is_not_stored(tmp_path: Path) -> None:
    async with remote_world(tmp_path, **LONG) as world:
        tier = await world.remote(store_timeout_s=20)
        work = asyncio.create_task(stored(tier, key_of("u"), long_pages()))
        await until(lambda: world.tiering.occupancy().staging_blocks > 0)
        world.tiering.evict(UserKey("t", "u"), time.monotonic_ns())
        assert not await work
        await until(lambda: world.is_at_rest)
        assert world.tiering.occupancy().entries == 0


async def test_a_cancelled_load_and_a_cancelled_store_give_everything_back(tmp_path: Path) -> None:
    async with remote_world(tmp_path, **LONG) as world:
        tier = await world.remote(fetch_timeout_s=20, store_timeout_s=20)
        store = asyncio.create_task(stored(tier, key_of("v"), long_pages(2)))
        await until(lambda: world.tiering.occupancy().staging_blocks > 0)
        store.cancel()
        await asyncio.gather(store, return_exceptions=True)
        assert store.cancelled() and not tier._stores
        await until(lambda: world.is_at_rest)
        assert await stored(tier, key_of("u"), long_pages())
        load = asyncio.create_task(tier.load(await tier.lookup(key_of("u")), [np.zeros(LONG_BYTES, np.uint8)]))
        await until(lambda: world.transfer._metrics.moved_bytes["FETCH"] > 0)
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)
        assert load.cancelled()
        await until(lambda: world.is_at_rest)
        assert world.tiering.occupancy().entries == 1


async def test_lookups_that_time_out_turn_the_tier_off_until_it_answers_and_leave_no_pin(tmp_path: Path) -> None:
    async with remote_world(tmp_path, pin_ms=60_000.0) as world:
        assert await stored(await world.remote(), key_of("u"), pages_of(1))
        tier = await world.remote(lookup_timeout_s=0.0, fetch_timeout_s=60)
        for _ in range(3):
            assert await tier.lookup(key_of("u")) is None
        assert not tier.is_attached
        await until(lambda: tier.is_attached and world.is_at_rest)
