"""Stopped, killed, restarted and silent processes: nothing is torn, nothing leaks, nobody waits."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relaygr.domain.identity import UserKey
from services.expander.service import ExpanderService
from tests.contract.expander_world import (
    ROOT,
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


async def test_a_stopped_writers_range_is_quarantined_until_it_is_gone(tmp_path: Path) -> None:
    async with expander_world(tmp_path, segment_bytes=115_000, staging_share=1.0) as world:
        tier, writer = await world.ranker("r1"), await world.process("r2")
        writer.tell(do="stall", writing_s=30)
        writer.tell(do="store", user="u", seed=1)
        blocks = set(await writer.line("copying"))
        writer.pause()
        await until(lambda: world.tiering.occupancy().quarantined_blocks == len(blocks))
        assert world.tiering.occupancy().owners == 1
        for index in range(8):  # more than fit beside the quarantine
            assert await stored(tier, key_of(f"v{index}"), pages_of(index))
            hit = await found(tier, key_of(f"v{index}"))
            grant = world.tiering.prepare_load(hit.attachment.owner_index, hit.pin_id, time.monotonic_ns())
            assert grant is not None and not blocks & set(grant.blocks)
            assert await tier.load(hit, empty())
        assert world.tiering.occupancy().quarantined_blocks == len(blocks)
        writer.kill()
        await until(lambda: world.tiering.occupancy().quarantined_blocks == 0)
        for index in range(8):
            assert await stored(tier, key_of(f"w{index}"), pages_of(index)), "its blocks are used again"


async def test_a_writer_that_wakes_up_is_refused_and_harms_nobody(tmp_path: Path) -> None:
    async with expander_world(tmp_path, segment_bytes=115_000, staging_share=1.0) as world:
        tier, writer = await world.ranker("r1"), await world.process("r2")
        writer.tell(do="stall", writing_s=0.3)
        writer.tell(do="store", user="u", seed=1)
        await writer.line("copying")
        writer.pause()
        await until(lambda: world.tiering.occupancy().quarantined_blocks > 0)
        assert await stored(tier, key_of("v"), pages_of(2))
        assert await stored(tier, key_of("w"), pages_of(3))
        writer.resume()
        assert not await writer.line("stored")
        assert await tier.lookup(key_of("u")) is None
        for user, seed in (("v", 2), ("w", 3)):
            pages = empty()
            assert await tier.load(await found(tier, key_of(user)), pages) and same(pages, pages_of(seed))
        # It has come back under another index and let the old byte go.
        await until(lambda: world.tiering.occupancy().quarantined_blocks == 0)
        writer.tell(do="wait_until_attached")
        await writer.line("attached")
        writer.tell(do="load", user="v", seed=2)
        assert await writer.line("loaded")


async def test_a_killed_readers_pins_are_released(world: World) -> None:
    tier, reader = await world.ranker("r1"), await world.process("r2")
    await stored(tier, key_of("u"), pages_of(1))
    index = world.tiering.attach("r2", 1, time.monotonic_ns())
    assert index is not None
    assert world.tiering.lookup(index, key_of("u"), time.monotonic_ns()) is not None
    assert world.tiering.occupancy().pins == 1
    reader.kill()
    await until(lambda: (world.tiering.occupancy().pins, world.tiering.occupancy().owners) == (0, 1))


async def test_after_an_expander_restart_rankers_attach_to_the_new_boot(world: World) -> None:
    tier = await world.ranker()
    heard: list[bool] = []
    tier._attacher._on_attached = heard.append
    await stored(tier, key_of("u"), pages_of(1))
    hit, old_path = await found(tier, key_of("u")), world.segment.path
    await world.stop()
    await until(lambda: not tier.is_attached)
    assert await tier.lookup(key_of("u")) is None
    await world.start()
    await until(lambda: tier.is_attached)
    assert heard == [False, True]
    assert not old_path.exists() and world.segment.path != old_path
    assert not await tier.load(hit, empty()), "a pin of the old boot"
    assert await tier.lookup(key_of("u")) is None
    assert await stored(tier, key_of("u"), pages_of(1))
    assert await tier.load(await found(tier, key_of("u")), empty())


async def test_an_idle_ranker_stays_attached(world: World) -> None:
    tier = await world.ranker()
    before = world.tiering.counters["owner_lapsed"]
    await asyncio.sleep(3 * world.config.owner_lapse_ms / 1000)
    assert tier.is_attached and world.tiering.counters["owner_lapsed"] == before


async def test_without_an_expander_everything_answers_at_once(world: World) -> None:
    tier = await world.ranker()
    await world.stop()
    await until(lambda: not tier.is_attached)
    began = time.monotonic()
    for _ in range(100):
        assert await tier.lookup(key_of("u")) is None
        assert not await stored(tier, key_of("u"), pages_of(1, count=1))
    assert time.monotonic() - began < 1.0
    assert await tier.forget(UserKey("t", "u")) == (0, False), "and forgetting says that it did not reach"
    await world.start()


async def test_a_hung_expander_costs_a_few_timeouts_and_then_nothing(tmp_path: Path) -> None:
    async with expander_world(tmp_path, heartbeat_ms=2000.0, owner_lapse_ms=5000.0) as world:
        answering = asyncio.Event()
        answering.set()
        world.wrap = lambda service: _Hanging(service, answering)
        await world.stop()
        await world.start()
        tier = await world.ranker(call_timeout_s=0.05, attach_timeout_s=0.2)
        world.share_slot_of(key_of("u"))
        answering.clear()
        began = time.monotonic()
        for _ in range(50):
            assert await tier.lookup(key_of("u")) is None
        assert not tier.is_attached
        assert time.monotonic() - began < 1.5, "fifty lookups, not fifty timeouts"
        answering.set()
        await until(lambda: tier.is_attached)


async def test_a_grant_whose_answer_was_lost_is_given_back(tmp_path: Path) -> None:
    async with expander_world(tmp_path) as world:
        late = _LateOnce("PrepareStore", 0.4)
        world.wrap = lambda service: late.around(service)
        await world.stop()
        await world.start()
        tier = await world.ranker(call_timeout_s=0.2)
        assert not await stored(tier, key_of("u"), pages_of(1))
        await until(lambda: late.done and world.tiering.occupancy().staging_blocks == 0)
        assert world.tiering.counters["store_granted"] == 1
        await until(lambda: not tier._stores)
        assert await stored(tier, key_of("u"), pages_of(1))


async def test_a_publication_whose_answer_was_lost_is_whole_or_absent(tmp_path: Path) -> None:
    async with expander_world(tmp_path) as world:
        late = _LateOnce("CompleteStore", 0.4)
        world.wrap = lambda service: late.around(service)
        await world.stop()
        await world.start()
        tier = await world.ranker(call_timeout_s=0.2)
        assert not await stored(tier, key_of("u"), pages_of(1))
        await until(lambda: not tier._stores)
        pages = empty()
        assert await tier.load(await found(tier, key_of("u")), pages) and same(pages, pages_of(1))
        assert world.tiering.occupancy().staging_blocks == 0


@pytest.mark.parametrize("verb", ["Lookup", "PrepareLoad"])
async def test_a_load_that_fails_at_any_step_is_a_miss_and_its_pin_ends(tmp_path: Path, verb: str) -> None:
    async with expander_world(tmp_path, pin_ms=300.0) as world:
        late = _LateOnce(verb, 0.4)
        # PrepareLoad is asked only where the lookup did not tell the blocks.
        world.wrap = lambda service: late.around(_Terse(service) if verb == "PrepareLoad" else service)
        await world.stop()
        await world.start()
        tier = await world.ranker(call_timeout_s=0.2)
        assert await stored(tier, key_of("u"), pages_of(1))
        hit = await tier.lookup(key_of("u"))
        assert (hit is None) == (verb == "Lookup")
        assert hit is None or not await tier.load(hit, empty())
        assert late.done
        await until(lambda: world.tiering.occupancy().pins == 0)
        assert await tier.load(await found(tier, key_of("u")), empty())


async def test_a_load_does_not_wait_for_the_end_of_its_pin(tmp_path: Path) -> None:
    async with expander_world(tmp_path) as world:
        answering = asyncio.Event()
        world.wrap = lambda service: _LateEnd(service, answering)
        await world.stop()
        await world.start()
        tier, pages = await world.ranker(), empty()
        assert await stored(tier, key_of("u"), pages_of(1))
        assert await tier.load(await found(tier, key_of("u")), pages) and same(pages, pages_of(1))
        assert world.tiering.occupancy().pins == 1, "the bytes are good, and the expander has not heard yet"
        answering.set()
        await until(lambda: world.tiering.occupancy().pins == 0)


async def test_a_reload_takes_two_calls(world: World) -> None:
    world.wrap = _Ungranting
    await world.stop()
    await world.start()
    tier, pages = await world.ranker(), empty()
    assert await stored(tier, key_of("u"), pages_of(1))
    assert await tier.load(await found(tier, key_of("u")), pages) and same(pages, pages_of(1))


async def test_blocks_that_a_lookup_told_are_a_miss_once_pin_and_entry_are_gone(tmp_path: Path) -> None:
    async with expander_world(tmp_path, pin_ms=50.0) as world:
        tier = await world.ranker()
        assert await stored(tier, key_of("u"), pages_of(1))
        hit = await found(tier, key_of("u"))
        await until(lambda: world.tiering.occupancy().pins == 0)
        assert await tier.forget(key_of("u").owner) == (1, True)
        assert hit.blocks and not await tier.load(hit, empty())
        assert world.tiering.counters["corrupt"] == 0


async def test_an_overdue_store_of_a_living_ranker_gets_its_blocks_back(tmp_path: Path) -> None:
    async with expander_world(tmp_path, store_ms=100.0) as world:
        tier, writer = await world.ranker("r1"), await world.process("r2")
        writer.tell(do="stall", writing_s=0.5)
        writer.tell(do="store", user="u", seed=1)
        await writer.line("copying")
        await until(lambda: world.tiering.occupancy().quarantined_blocks > 0)
        assert not await writer.line("stored")
        await until(lambda: world.tiering.occupancy().quarantined_blocks == 0)
        assert await tier.lookup(key_of("u")) is None
        assert world.tiering.counters["store_overdue"] == 1


async def test_an_entry_that_lost_its_stamp_is_not_read_and_goes(world: World) -> None:
    tier = await world.ranker()
    await stored(tier, key_of("u"), pages_of(1))
    hit = await found(tier, key_of("u"))
    grant = world.tiering.prepare_load(hit.attachment.owner_index, hit.pin_id, time.monotonic_ns())
    assert grant is not None
    world.segment.stamp(grant.blocks[-1:], hit.generation + 1)
    pages = empty()
    assert not await tier.load(hit, pages)
    assert not any(np.any(page) for page in pages), "it was seen before the first byte"
    assert world.tiering.counters["corrupt"] == 1 and await tier.lookup(key_of("u")) is None
    assert await stored(tier, key_of("u"), pages_of(2)), "and its user's next psi finds a place"


async def test_blocks_that_changed_hands_after_their_pin_lapsed_say_nothing_against_the_entry(tmp_path: Path) -> None:
    async with expander_world(tmp_path, pin_ms=50.0) as world:
        tier = await world.ranker()
        await stored(tier, key_of("u"), pages_of(1))
        hit = await found(tier, key_of("u"))
        await until(lambda: world.tiering.occupancy().pins == 0)
        world.segment.stamp(hit.blocks, hit.generation + 1)
        assert not await tier.load(hit, empty())
        assert world.tiering.counters["corrupt"] == 0 and world.tiering.counters["pin_gone"] == 1


class _Wrapped:
    """A service whose methods can be put off."""

    def __init__(self, service: Any):
        self._service = service

    def __getattr__(self, name: str) -> Any:
        return getattr(self._service, name)


class _Hanging(_Wrapped):
    def __init__(self, service: ExpanderService, answering: asyncio.Event):
        super().__init__(service)
        self._answering = answering

    async def _hang(self, name: str, request: Any, context: Any) -> Any:
        await self._answering.wait()
        return await getattr(self._service, name)(request, context)

    async def Lookup(self, request: Any, context: Any) -> Any:
        return await self._hang("Lookup", request, context)

    async def Attach(self, request: Any, context: Any) -> Any:
        return await self._hang("Attach", request, context)


class _Terse(_Wrapped):
    """As an expander that knows nothing of blocks in a lookup's answer."""

    async def Lookup(self, request: Any, context: Any) -> Any:
        answer = await self._service.Lookup(request, context)
        del answer.blocks[:]
        return answer


class _Ungranting(_Wrapped):
    async def PrepareLoad(self, request: Any, context: Any) -> Any:
        raise AssertionError("a call that was not needed")


class _LateEnd(_Wrapped):
    """CompleteLoad does nothing until it may."""

    def __init__(self, service: Any, answering: asyncio.Event):
        super().__init__(service)
        self._answering = answering

    async def CompleteLoad(self, request: Any, context: Any) -> Any:
        await self._answering.wait()
        return await self._service.CompleteLoad(request, context)


class _LateOnce:
    """One verb does its work the first time and answers too late."""

    def __init__(self, verb: str, delay_s: float):
        self._verb, self._delay_s = verb, delay_s
        self.done = False

    def around(self, service: Any) -> Any:
        real = getattr(service, self._verb)

        async def late(request: Any, context: Any) -> Any:
            answer = await real(request, context)
            if not self.done:
                self.done = True
                await asyncio.sleep(self._delay_s)
            return answer

        wrapped = _Wrapped(service)
        setattr(wrapped, self._verb, late)
        return wrapped


def _expander_process(directory: Path) -> subprocess.Popen[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("RELAYGR_")}
    env |= {
        "RELAYGR_EXPANDER_ADDRESS": "127.0.0.1:0",
        "RELAYGR_EXPANDER_SEGMENT_DIRECTORY": str(directory),
        "RELAYGR_EXPANDER_SEGMENT_BYTES": "1000000",
    }
    command = [sys.executable, "-m", "services.expander"]
    return subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)


def _until_listening(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if "listens on port" in line:
            return
    raise AssertionError("it ended before it listened")


def test_the_segment_goes_with_an_orderly_stop_and_with_the_next_start_after_a_kill(tmp_path: Path) -> None:
    first = _expander_process(tmp_path)
    second = None
    try:
        _until_listening(first)
        left = set(tmp_path.iterdir())
        assert len(left) == 2 and all(path.stat().st_mode & 0o777 == 0o600 for path in left)
        first.kill()
        first.wait(10)
        assert set(tmp_path.iterdir()) == left
        second = _expander_process(tmp_path)
        _until_listening(second)
        assert len(set(tmp_path.iterdir())) == 2 and not left & set(tmp_path.iterdir())
        second.send_signal(signal.SIGTERM)
        assert second.wait(20) == 0
        assert not list(tmp_path.iterdir())
    finally:
        for process in (first, second):
            if process is not None:
                process.kill()
                process.wait(10)
                assert process.stderr is not None
                process.stderr.close()
