"""Stores and loads over a real segment: what goes in comes out, or nothing does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest

from relaygr.domain.identity import UserKey
from relaygr.segment import Transfer
from services.ranker.adapters import dram_copier
from services.ranker.adapters.dram import DramTier, Pages
from tests.contract.expander_world import (
    CHAIN,
    PAGE_BYTES,
    World,
    empty,
    expander_world,
    found,
    key_of,
    pages_of,
    same,
    stored,
    until,
)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with expander_world(tmp_path) as made:
        yield made


async def test_what_one_process_stored_another_loads_byte_for_byte(world: World) -> None:
    tier, other = await world.ranker("r1"), await world.process("r2")
    other.tell(do="store", user="u", seed=7)
    assert await other.line("stored")
    hit, pages = await found(tier, key_of("u")), empty()
    assert (hit.token_count, hit.chain_digest, hit.length_bytes) == (300, CHAIN, 3 * PAGE_BYTES)
    assert hit.producer_traceparent.startswith("00-1111")
    assert await tier.load(hit, pages)
    assert same(pages, pages_of(7))
    assert await stored(tier, key_of("v"), pages_of(8))
    other.tell(do="load", user="v", seed=8)
    assert await other.line("loaded")


async def test_two_rankers_of_a_host_share_entries_and_pins(world: World) -> None:
    first, second = await world.ranker("r1"), await world.ranker("r2")
    assert await stored(first, key_of("u"), pages_of(1))
    assert await stored(second, key_of("u"), pages_of(1)), "the same content is there already: nothing to copy"
    hits = [await found(tier, key_of("u")) for tier in (first, second)]
    assert world.tiering.occupancy().pins == 2
    loads = [(tier, hit, empty()) for tier, hit in zip((first, second), hits, strict=True)]
    assert await asyncio.gather(*(tier.load(hit, pages) for tier, hit, pages in loads)) == [True, True]
    assert all(same(pages, pages_of(1)) for _, _, pages in loads)
    await until(lambda: world.tiering.occupancy().pins == 0)


async def test_a_hit_is_only_for_its_own_tenant_user_and_anchor(world: World) -> None:
    tier = await world.ranker()
    await stored(tier, key_of("u"), pages_of(1))
    others = (key_of("u", tenant="x"), key_of("w"), key_of("u", anchor=128))
    assert [await tier.lookup(key) for key in others] == [None, None, None]


async def test_a_flipped_byte_is_found_and_the_entry_dropped(world: World) -> None:
    tier = await world.ranker()
    await stored(tier, key_of("u"), pages_of(1))
    hit = await found(tier, key_of("u"))
    path = world.segment.path
    raw = np.memmap(path, dtype=np.uint8, mode="r+")
    place = bytes(raw).find(pages_of(1)[1][:64].tobytes())
    raw[place] ^= 1
    assert not await tier.load(hit, empty())
    assert await tier.lookup(key_of("u")) is None
    assert world.tiering.counters["corrupt"] == 1
    assert await stored(tier, key_of("u"), pages_of(1)), "and it can be stored again"


async def test_pages_of_another_length_are_a_miss_and_the_pin_ends(world: World) -> None:
    tier = await world.ranker()
    await stored(tier, key_of("u"), pages_of(1))
    assert not await tier.load(await found(tier, key_of("u")), empty(2))
    await until(lambda: world.tiering.occupancy().pins == 0)
    assert await tier.load(await found(tier, key_of("u")), empty(3)), "the entry itself is sound"


async def test_a_pin_ends_once_however_often_it_is_ended(world: World) -> None:
    tier = await world.ranker()
    await stored(tier, key_of("u"), pages_of(1))
    hit, second = await found(tier, key_of("u")), await found(tier, key_of("u"))
    await tier.abandon(hit)
    await tier.abandon(hit)
    assert not await tier.load(hit, empty())
    assert world.tiering.occupancy().pins == 1
    assert await tier.load(second, empty())


async def _loaded_with(
    tier: DramTier, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], Awaitable[object]]
) -> tuple[bool, Pages]:
    """Load a user's entry; something happens when all its bytes are copied and the load has not ended."""
    loop = asyncio.get_running_loop()
    hit, pages = await found(tier, key_of("u")), empty()

    async def happen() -> None:
        await meanwhile()

    def move(transfer: Transfer, should_stop: Callable[[], bool]) -> bool:
        result = transfer.work(should_stop)
        if not transfer.is_store:
            asyncio.run_coroutine_threadsafe(happen(), loop).result(10)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(dram_copier, "move", move)
        return await tier.load(hit, pages), pages


async def test_a_load_whose_user_is_forgotten_during_the_copy_is_not_believed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier, other = await world.ranker(), await world.ranker("other")
    await stored(tier, key_of("u"), pages_of(1))
    is_loaded, pages = await _loaded_with(tier, monkeypatch, lambda: other.forget(UserKey("t", "u")))
    assert not is_loaded
    assert same(pages, pages_of(1)), "the bytes were right; nobody may use them"
    await until(lambda: world.tiering.occupancy().pins == 0)
    assert world.tiering.counters["corrupt"] == 0, "nothing was wrong with them"


async def test_a_load_whose_entry_went_during_the_copy_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with expander_world(tmp_path, pin_ms=50.0) as world:
        tier = await world.ranker()
        await stored(tier, key_of("u"), pages_of(1))

        async def flood() -> None:
            await asyncio.sleep(0.1)  # the pin's time
            for index in range(60):
                await stored(tier, key_of(f"other-{index}"), pages_of(index))

        is_loaded, _ = await _loaded_with(tier, monkeypatch, flood)
        assert not is_loaded
        assert world.tiering.counters["corrupt"] == 0


async def test_a_load_that_outlasts_its_pin_is_believed_while_the_entry_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with expander_world(tmp_path, pin_ms=50.0) as world:
        tier = await world.ranker()
        await stored(tier, key_of("u"), pages_of(1))
        is_loaded, pages = await _loaded_with(tier, monkeypatch, lambda: asyncio.sleep(0.1))
        assert is_loaded and same(pages, pages_of(1))


async def test_a_cancelled_load_touches_no_page_after_it_returned(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = await world.ranker()
    await stored(tier, key_of("u"), pages_of(1))
    begun, ended = asyncio.Event(), []
    loop = asyncio.get_running_loop()

    def slow(transfer: Transfer, should_stop: Callable[[], bool]) -> bool:
        loop.call_soon_threadsafe(begun.set)
        time.sleep(0.1)
        result = transfer.work(should_stop)
        ended.append(result)
        return result

    monkeypatch.setattr(dram_copier, "move", slow)
    task = asyncio.create_task(tier.load(await found(tier, key_of("u")), empty()))
    await begun.wait()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert ended == [False], "the copy was told to stop and waited for"
    await until(lambda: world.tiering.occupancy().pins == 0)


async def test_a_cancelled_store_reads_no_page_after_it_returned(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    tier = await world.ranker()
    begun, ended = asyncio.Event(), []
    loop = asyncio.get_running_loop()

    def slow(transfer: Transfer, should_stop: Callable[[], bool]) -> bool:
        loop.call_soon_threadsafe(begun.set)
        time.sleep(0.1)
        result = transfer.work(should_stop)
        ended.append(result)
        return result

    monkeypatch.setattr(dram_copier, "move", slow)
    task = asyncio.create_task(stored(tier, key_of("u"), pages_of(1)))
    await begun.wait()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled() and ended == [False]
    assert await tier.lookup(key_of("u")) is None
    assert world.tiering.occupancy().staging_blocks == 0


async def test_more_stores_than_its_maximum_are_refused_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    tier = await world.ranker(stores_max=2)
    gate = asyncio.Event()
    loop = asyncio.get_running_loop()

    def gated(transfer: Transfer, should_stop: Callable[[], bool]) -> bool:
        asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(10)
        return transfer.work(should_stop)

    monkeypatch.setattr(dram_copier, "move", gated)
    running = [asyncio.create_task(stored(tier, key_of(user), pages_of(1))) for user in "ab"]
    await until(lambda: world.tiering.occupancy().staging_blocks == 2 * 8)
    assert not await stored(tier, key_of("c"), pages_of(1))
    assert not await stored(tier, key_of("a"), pages_of(1)), "nor a second one of the same psi"
    gate.set()
    assert await asyncio.gather(*running) == [True, True]


async def test_forgetting_ends_entries_loads_and_stores_under_way(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = await world.ranker()
    await stored(tier, key_of("u"), pages_of(1))
    await stored(tier, key_of("v"), pages_of(2))
    hit = await found(tier, key_of("u"))
    gate = asyncio.Event()
    loop = asyncio.get_running_loop()

    def gated(transfer: Transfer, should_stop: Callable[[], bool]) -> bool:
        asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(10)
        return transfer.work(should_stop)

    monkeypatch.setattr(dram_copier, "move", gated)
    late = asyncio.create_task(stored(tier, key_of("u", anchor=128), pages_of(3)))
    await until(lambda: world.tiering.occupancy().staging_blocks > 0)
    assert await tier.forget(UserKey("t", "u")) == (2, True)
    gate.set()
    assert not await late
    assert not await tier.load(hit, empty())
    assert await tier.lookup(key_of("u")) is None
    assert not await stored(tier, key_of("u"), pages_of(1)), "the tombstone blocks late stores"
    assert await found(tier, key_of("v"))


async def test_a_full_segment_evicts_the_least_recently_used(world: World) -> None:
    tier = await world.ranker()
    for index in range(60):
        assert await stored(tier, key_of(f"u{index}"), pages_of(index))
        if index:
            assert await tier.load(await found(tier, key_of("u0")), empty()), "in use, so it stays"
    assert await tier.lookup(key_of("u1")) is None
    assert world.tiering.counters["evicted"] > 0
    pages = empty()
    assert await tier.load(await found(tier, key_of("u59")), pages)
    assert same(pages, pages_of(59))


async def test_every_metric_moves(world: World) -> None:
    tier = await world.ranker()
    world.share_slot_of(key_of("u"))
    await tier.lookup(key_of("u"))
    await stored(tier, key_of("u"), pages_of(1))
    await found(tier, key_of("u"))

    def values(name: str, attribute: str) -> dict[str, float]:
        return {point.attributes.get(attribute, ""): point.value for point in world.telemetry.points(name)}

    assert values("relaygr.dram.lookups", "relaygr.dram.outcome") == {"HIT": 1, "MISS": 1}
    assert values("relaygr.dram.stores", "relaygr.dram.outcome") == {"PUBLISHED": 1}
    state = values("relaygr.dram.bytes", "relaygr.residency.state")
    assert state["published"] == 8 * 4096 and sum(state.values()) == world.config.limits.block_count * 4096
    events = values("relaygr.dram.events", "relaygr.residency.event")
    assert (events["corrupt"], events["hit"], events["store_published"]) == (0, 1, 1)
    assert values("relaygr.dram.entries", "") == values("relaygr.dram.pins", "") == {"": 1}
    assert values("relaygr.dram.owners", "") == {"": 1}


async def test_heartbeats_leave_no_spans_and_verbs_do(world: World) -> None:
    tier = await world.ranker()
    world.share_slot_of(key_of("u"))
    await tier.lookup(key_of("u"))
    await until(lambda: any(span.name.endswith("/Lookup") for span in world.spans.get_finished_spans()))
    assert not [span for span in world.spans.get_finished_spans() if span.name.endswith("/Attach")]
