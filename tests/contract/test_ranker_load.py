"""What a ranker says of its load beside a DRAM tier: work that it has accepted counts from the answer on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contract.expander_world import World as Expander
from tests.contract.ranker_world import World, history, model_dir, ranker_world

__all__ = ["model_dir"]


@pytest.fixture
async def world(model_dir: Path, tmp_path: Path) -> AsyncIterator[World]:
    expander = Expander(tmp_path, segment_bytes=16_000_000)
    await expander.start()
    try:
        async with ranker_world(model_dir, expander=expander.address, pages=32) as made:
            async with asyncio.timeout(10):
                while not made.ranker.engine.is_dram_attached:  # noqa: ASYNC110 - told to the machine, not to a test
                    await asyncio.sleep(0.01)
            yield made
    finally:
        await expander.stop()


async def test_a_newcomer_s_production_counts_while_it_is_still_being_looked_up(world: World) -> None:
    behaviours = history(5, 1000)
    asked = await world.pre_infer(behaviours, world.ticket(behaviours))
    assert asked.load.pre_infer_jobs == 1
    assert asked.load.backlog_ns > asked.production_ns / 2


async def test_it_counts_once_when_the_device_has_it(world: World) -> None:
    behaviours = history(5, 1000)
    asked = await world.pre_infer(behaviours, world.ticket(behaviours))
    await world.until_idle()
    assert world.ranker.engine.load().backlog_ns == 0
    again = await world.pre_infer(behaviours, world.ticket(behaviours))
    assert (again.load.pre_infer_jobs, again.load.backlog_ns) == (0, 0)
    assert asked.production_ns > 0


async def test_what_dram_may_hold_does_not_count_as_work(world: World) -> None:
    behaviours = history(6, 600)
    ticket = world.ticket(behaviours)
    await world.pre_infer(behaviours, ticket)
    await world.until_idle()
    await world.rank(world.rank_request(behaviours, ticket=ticket))
    residency = world.ranker.engine.residency
    async with asyncio.timeout(10):
        while not residency.snapshot().counters["spills_stored"]:  # noqa: ASYNC110 - a counter, not an event
            await asyncio.sleep(0.01)
    for number in range(20):
        # Newcomers, until the first one's psi has left the device.
        others = history(100 + number, 900)
        await world.pre_infer(others, world.ticket(others, user=f"other-{number}"))
        await world.until_idle()
    assert residency.snapshot().counters["evicted_space"]
    back = await world.pre_infer(behaviours, world.ticket(behaviours))
    assert back.load.pre_infer_jobs == 0
