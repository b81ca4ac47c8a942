"""What instances say of themselves reaches the trigger by way of a real router."""

from __future__ import annotations

import pytest

from relaygr.v1 import common_pb2
from tests.contract.router_world import router_world


@pytest.fixture
async def world(tmp_path):
    async with router_world(tmp_path / "etcd", "a", "b") as made:
        yield made


async def test_resolve_passes_on_what_an_instance_says_of_itself(world):
    ranker = world.rankers[(answer := await world.resolve()).instance_id]
    assert not answer.HasField("feedback")
    # Most of its ranks come by other routers, which this one does not see.
    ranker.rank_rate_hz = 500.0
    ranker.feedback = common_pb2.Feedback(pre_infers=9, relays=7, relays_lost=2, production_wait_ns=5)
    await world.pre_infer(world.ticket(ranker))
    again = await world.resolve()
    assert again.instance_id == ranker.name
    assert 400 < again.rank_rate_hz <= 500
    assert again.feedback == ranker.feedback
    ranker.feedback = None
    await world.pre_infer(world.ticket(ranker))
    assert (await world.resolve()).feedback.pre_infers == 9, "one that says nothing takes nothing back"
