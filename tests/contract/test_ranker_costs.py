"""A ranker whose device at work is not what was measured at start says so."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from relaygr.domain.cost import CostModel
from relaygr.rpc.identity import cost_from_pb
from relaygr.v1 import ranker_pb2
from services.ranker import assembly
from services.ranker.adapters.executor import Ending, Outcome
from services.ranker.core.costs import EVERY, FACTOR_MOST
from services.ranker.core.schedule import Job, JobClass
from tests.contract.ranker_world import World, history, model_dir, ranker_world, world

__all__ = ["model_dir", "world"]

TOO_CHEAP = CostModel(
    fixed_ns=1_000.0,
    token_ns=1.0,
    pair_ns=0.0,
    reload_fixed_ns=3e6,
    reload_byte_ns=0.5,
    relative_error=0.1,
    token_bytes=512,
    candidates_typical=64,
)


async def described(world: World) -> CostModel:
    return cost_from_pb((await world.stub.Describe(ranker_pb2.DescribeRequest(), timeout=5)).cost)


def work(world: World, ending: Ending, count: int) -> None:
    """Jobs end that took twice as long as expected."""
    for job_id in range(count):
        job = Job(job_id, JobClass.RANK, 0, 5_000_000, droppable=False)
        world.ranker.worked(job, Outcome(ending, None, queued_ns=0, compute_ns=10_000_000))


async def test_ranks_that_take_longer_than_was_measured_change_the_model_that_is_described(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembly, "measure", lambda *_: TOO_CHEAP)
    async with ranker_world(model_dir) as world:
        request = world.rank_request(history(1, 50))
        await asyncio.gather(*(world.rank(request) for _ in range(EVERY - 1)))
        assert await described(world) == TOO_CHEAP
        await world.rank(request)
        cost = await described(world)
        assert cost == TOO_CHEAP.scaled(FACTOR_MOST, cost.relative_error)
        assert cost.relative_error > TOO_CHEAP.relative_error
        record = world.ranker.instance.record
        assert record.cost == cost, "what the registry shows is the same"


async def test_a_changed_model_changes_nothing_else_of_the_record(world: World) -> None:
    before = world.ranker.instance.record
    work(world, Ending.DONE, EVERY)
    after = world.ranker.instance.record
    assert (after.epoch, after.model, after.state, after.limits) == (
        before.epoch,
        before.model,
        before.state,
        before.limits,
    )
    assert after.cost == before.cost.scaled(2.0, before.cost.relative_error)
    assert await described(world) == after.cost


@pytest.mark.parametrize("ending", [Ending.FAILED, Ending.LATE, Ending.CANCELLED])
async def test_jobs_that_were_not_done_say_nothing_of_the_costs(world: World, ending: Ending) -> None:
    before = await described(world)
    work(world, ending, 2 * EVERY)
    assert await described(world) == before
