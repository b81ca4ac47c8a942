"""What a ranker stored or found before it finds again without a call, while the stamps say that it is there."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest

from relaygr.domain.identity import UserKey
from relaygr.segment import Transfer
from relaygr.v1 import expander_pb2 as pb
from services.ranker.adapters import dram_copier
from services.ranker.adapters.dram import DramTier
from services.ranker.adapters.dram_known import ENTRIES_MAX
from tests.contract.expander_world import World, empty, expander_world, found, key_of, pages_of, same, stored, until
from tests.contract.test_expander_presence import asked


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with expander_world(tmp_path) as made:
        yield made


async def remembering(world: World, owner: str = "r1") -> DramTier:
    return await world.ranker(owner, known_max=ENTRIES_MAX)


async def test_what_a_ranker_stored_it_loads_without_a_lookup_and_the_use_is_counted(world: World) -> None:
    tier = await remembering(world)
    assert await stored(tier, key_of("u"), pages_of(1))
    for number in (1, 2):
        hit, pages = await found(tier, key_of("u")), empty()
        assert not hit.is_pinned and world.tiering.occupancy().pins == 0
        assert await tier.load(hit, pages) and same(pages, pages_of(1))
        await until(lambda: world.tiering.counters["hit"] == number)  # noqa: B023 - awaited within the round


async def test_what_a_ranker_found_once_it_finds_again_without_a_lookup(world: World) -> None:
    first, second = await remembering(world, "r1"), await remembering(world, "r2")
    assert await stored(first, key_of("u"), pages_of(1))
    hits = [await found(second, key_of("u")) for _ in range(2)]
    assert [hit.is_pinned for hit in hits] == [True, False] and asked(world) == 1
    for hit in hits:
        pages = empty()
        assert await second.load(hit, pages) and same(pages, pages_of(1))


async def test_what_another_ranker_replaced_is_not_what_is_found(world: World) -> None:
    first, second, reader = await remembering(world, "r1"), await remembering(world, "r2"), await world.ranker("r3")
    assert await stored(first, key_of("u"), pages_of(1))
    pin = await found(reader, key_of("u"))
    assert await stored(second, key_of("u"), pages_of(2, count=4), tokens=400)
    hit, pages = await found(first, key_of("u")), empty(4)
    assert hit.is_pinned and hit.token_count == 400
    assert await first.load(hit, pages) and same(pages, pages_of(2, count=4))
    assert not await reader.load(pin, empty()), "what was replaced under a pin is not used"
    assert world.tiering.counters["corrupt"] == 0


async def test_a_forgotten_users_entry_is_remembered_by_nobody(world: World) -> None:
    first, second = await remembering(world, "r1"), await remembering(world, "r2")
    assert await stored(first, key_of("u"), pages_of(1))
    late = await found(first, key_of("u"))
    assert await second.forget(UserKey("t", "u")) == (1, True)
    assert await first.lookup(key_of("u")) is None
    pages = empty()
    assert not await first.load(late, pages), "found before, loaded after it was forgotten"
    assert len(first._known) == 0


@pytest.mark.parametrize("known_max", [0, ENTRIES_MAX], ids=["pinned", "remembered"])
@pytest.mark.parametrize("what", ["forgotten", "replaced", "expander closed"])
async def test_what_happens_between_the_last_byte_and_the_loop_that_hears_of_it_is_seen(
    world: World, monkeypatch: pytest.MonkeyPatch, known_max: int, what: str
) -> None:
    tier, other = await world.ranker(known_max=known_max), await world.ranker("r2")
    assert await stored(tier, key_of("u"), pages_of(1))
    move, moved, may_end = dram_copier.move, asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def held(transfer: Transfer, should_stop: Callable[[], bool]) -> bool:
        is_done = move(transfer, should_stop)
        if not transfer.is_store:
            loop.call_soon_threadsafe(moved.set)
            assert may_end.wait(10)
        return is_done

    monkeypatch.setattr(dram_copier, "move", held)
    load = asyncio.ensure_future(tier.load(await found(tier, key_of("u")), empty()))
    await moved.wait()
    match what:
        case "forgotten":
            await other.forget(UserKey("t", "u"))
        case "replaced":
            assert await stored(other, key_of("u"), pages_of(2, count=4), tokens=400)
        case _:
            # As `OwnedSegment.close` begins, and as a next start does for one that was killed.
            world.segment.clear(range(world.segment.geometry.block_count))
    may_end.set()
    assert not await load


async def test_an_evicted_or_aged_entry_is_not_found(tmp_path: Path) -> None:
    async with expander_world(tmp_path, entry_age_s=1.0) as world:
        tier = await remembering(world)
        for index in range(40):
            assert await stored(tier, key_of(f"u{index}"), pages_of(index))
        assert world.tiering.counters["evicted"] > 0
        assert await tier.lookup(key_of("u0")) is None
        late = await found(tier, key_of("u39"))
        await until(lambda: world.tiering.occupancy().entries == 0)
        assert await tier.lookup(key_of("u39")) is None
        assert not await tier.load(late, empty())
        assert world.tiering.counters["corrupt"] == 0


async def test_an_entry_that_is_used_without_a_pin_is_not_the_next_to_be_evicted(world: World) -> None:
    tier = await remembering(world)
    assert await stored(tier, key_of("used"), pages_of(1))
    assert await stored(tier, key_of("idle"), pages_of(2))
    assert await tier.load(await found(tier, key_of("used")), empty())
    await until(lambda: world.tiering.counters["hit"] == 1)
    first = next(iter(world.tiering._entries.idle()))
    assert first.key == key_of("idle")


async def test_bad_bytes_read_without_a_pin_end_the_entry(world: World) -> None:
    tier = await remembering(world)
    assert await stored(tier, key_of("u"), pages_of(1))
    hit = await found(tier, key_of("u"))
    hit.attachment.segment.block(hit.blocks[1])[7] ^= 1
    assert not await tier.load(hit, empty())
    assert world.tiering.counters["corrupt"] == 1 and world.tiering.occupancy().entries == 0
    assert await tier.lookup(key_of("u")) is None


async def test_a_new_boot_knows_nothing_of_what_was_remembered(world: World) -> None:
    tier = await remembering(world)
    assert await stored(tier, key_of("u"), pages_of(1))
    await world.stop()
    await until(lambda: not tier.is_attached)
    await world.start()
    await until(lambda: tier.is_attached)
    # With the same blocks and generation for another user's psi, of a life that counts anew.
    assert await stored(tier, key_of("v"), pages_of(2))
    assert await tier.lookup(key_of("u")) is None
    hit, pages = await found(tier, key_of("v")), empty()
    assert await tier.load(hit, pages) and same(pages, pages_of(2))


@pytest.mark.parametrize(
    ("change", "field"),
    [({"generation": 0}, "generation"), ({"key": pb.EntryKey()}, "key.user")],
    ids=["no generation", "no key"],
)
async def test_an_end_without_a_pin_says_of_what(world: World, change: dict[str, object], field: str) -> None:
    tier = await remembering(world)
    assert await stored(tier, key_of("u"), pages_of(1))
    hit = await found(tier, key_of("u"))
    request = pb.CompleteLoadRequest(
        verified=True, key=tier._key_pb(hit.key), generation=hit.generation, **tier._caller(hit.attachment)
    )
    for name, value in change.items():
        if name == "key":
            request.key.CopyFrom(value)
        else:
            setattr(request, name, value)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await world.stub.CompleteLoad(request)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT and field in str(caught.value.details())
    assert world.tiering.counters["hit"] == 0
