"""The whole ranker with an expander on another host: reloads, the choice to compute, and no rank that waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from relaygr.v1 import ranker_pb2
from services.ranker.config import RankerConfig
from services.ranker.core.lifecycle import PsiState
from tests.contract.expander_world import until
from tests.contract.ranker_world import KEY, World, history, model_dir, ranker_world
from tests.contract.remote_world import RemoteWorld, remote_world

__all__ = ["model_dir"]

PAGES = 10
"""Two users' psi of 450 behaviours."""


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[RemoteWorld]:
    async with remote_world(tmp_path, segment_bytes=64_000_000, block_bytes=65_536) as made:
        yield made


@pytest.fixture
async def world(model_dir: Path, host: RemoteWorld) -> AsyncIterator[World]:
    async with ranker_world(model_dir, pages=PAGES, expander_remote=host.address) as made:
        await until(lambda: made.ranker.engine.is_dram_attached)
        # Answers may be late on a shared machine without that being the point.
        made.ranker.dram._lookup_timeout_s = 2.0
        yield made


def counters(world: World) -> dict[str, int]:
    return world.ranker.engine.residency.snapshot().counters


def compute_takes(world: World, factor: float) -> None:
    """As on a device that is so many times as slow."""
    residency = world.ranker.engine.residency
    residency.use_costs(residency._books.cost.scaled(factor, 0.0))


def is_at_rest(world: World) -> bool:
    entries = world.ranker.engine.residency._books.entries.by_id.values()
    seen = counters(world)
    are_stored = seen["spills_started"] == seen["spills_stored"] + seen["spills_failed"]
    return are_stored and all(entry.state == PsiState.RESIDENT for entry in entries)


async def relay(world: World, user: str) -> tuple[str, float]:
    """One relay: the tier that served it, and how far its scores are from full inference."""
    behaviours = history(int(user[1:]), 450)
    ticket = world.ticket(behaviours, user)
    await world.pre_infer(behaviours, ticket)
    await until(lambda: is_at_rest(world))
    request = world.rank_request(behaviours, user, ticket=ticket)
    response = await world.rank(request)
    await until(lambda: is_at_rest(world))
    return ranker_pb2.Tier.Name(response.tier), await world.difference(request, response)


async def test_a_returning_user_is_reloaded_from_another_host_and_the_scores_are_equal(
    world: World, host: RemoteWorld
) -> None:
    compute_takes(world, 1000.0)
    for user in ("u1", "u2", "u3"):
        assert (await relay(world, user))[0] == "TIER_DEVICE"
    tier, difference = await relay(world, "u1")
    assert (tier, counters(world)["lookup_hits"]) == ("TIER_DRAM", 1)
    assert difference <= 1e-5
    assert host.transfer._metrics.moved_bytes["FETCH"] > 0
    await until(lambda: host.is_at_rest)


async def test_psi_goes_to_another_host_as_int8_where_that_is_asked_for(model_dir: Path, host: RemoteWorld) -> None:
    async with ranker_world(
        model_dir, pages=PAGES, expander_remote=host.address, dram_dtype="int8", dtype="bfloat16"
    ) as world:
        await until(lambda: world.ranker.engine.is_dram_attached)
        world.ranker.dram._lookup_timeout_s = 2.0
        compute_takes(world, 1000.0)
        for index in range(8):
            await relay(world, f"u{index}")
        assert (await relay(world, "u0"))[0] == "TIER_DRAM"
    await until(lambda: host.is_at_rest)


async def test_psi_that_is_computed_sooner_than_it_is_fetched_is_computed(world: World, host: RemoteWorld) -> None:
    compute_takes(world, 1e-6)
    for user in ("u1", "u2", "u3", "u1"):
        tier, difference = await relay(world, user)
        assert tier == "TIER_DEVICE" and difference <= 1e-5
    seen = counters(world)
    assert seen["lookups"] == 4 and seen["lookup_hits"] == 0
    assert host.transfer._metrics.moved_bytes["FETCH"] == 0, "what is not taken is not sent"
    await until(lambda: host.is_at_rest)


async def test_a_rank_does_not_wait_for_another_hosts_memory(world: World, host: RemoteWorld) -> None:
    """Design, section 5, I2: the lookup hangs, and the rank that comes meanwhile is inferred in full at once."""
    compute_takes(world, 1000.0)  # Else the lookup would be given up for it before the rank comes.
    behaviours, hanging = history(7, 450), asyncio.Event()
    lookup = world.ranker.dram.lookup

    async def late(key: object) -> object:
        await hanging.wait()
        return await lookup(key)  # type: ignore[arg-type]

    world.ranker.dram.lookup = late  # type: ignore[method-assign]
    ticket = world.ticket(behaviours)
    await world.pre_infer(behaviours, ticket)
    response = await world.rank(world.rank_request(behaviours, ticket=ticket))
    assert response.tier == ranker_pb2.TIER_FULL and counters(world)["rank_waited"] == 0
    hanging.set()
    await until(lambda: is_at_rest(world))


async def test_the_measured_way_is_part_of_the_cost_that_is_published(world: World) -> None:
    cost, record = world.ranker.costs.published, world.ranker.instance.record
    assert record.cost == cost == replace(world.ranker.engine.residency._books.cost)
    assert cost.reload_fixed_ns != 3_000_000.0, "timed, and not the guess for this host's"
    assert cost.reload_byte_ns > 0
    rescaled = world.ranker.costs._alone.scaled(2.0, 0.0)
    assert rescaled.reload_fixed_ns == cost.reload_fixed_ns, "and it stays when the device turns out slower"


async def test_a_user_who_is_forgotten_is_gone_on_the_other_host_as_well(world: World, host: RemoteWorld) -> None:
    await relay(world, "u1")
    assert host.tiering.occupancy().entries == 1
    reply = await world.stub.Forget(ranker_pb2.ForgetRequest(user="u1"), timeout=5)
    assert reply.dram_entries == 1
    assert host.tiering.occupancy().entries == 0


def test_a_ranker_has_one_dram_tier() -> None:
    with pytest.raises(AssertionError, match="expander and expander_remote"):
        RankerConfig(model="m", ticket_key=KEY, expander="a:1", expander_remote="b:1")
