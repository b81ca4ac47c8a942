"""Design, section 5, I2: ranking never waits for another host's memory.

Nor for its own host's: bytes come to the device by the pre-infer, never by the rank. A DRAM
tier that never answers shows who waits for it.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from relaygr.domain.identity import PsiKey, UserKey
from relaygr.v1 import ranker_pb2
from tests.contract.ranker_world import World, history, ranker_world


class SilentDram:
    """A DRAM tier that takes every question and answers none until it is given up."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.give_up = asyncio.Event()

    def may_hold(self, key: PsiKey) -> bool:
        return True

    async def lookup(self, key: PsiKey) -> None:
        await self._hang(f"lookup {key.owner.user}")

    async def store(self, key: PsiKey, *_: object) -> bool:
        await self._hang(f"store {key.owner.user}")
        return False

    async def forget(self, owner: UserKey) -> tuple[int, bool]:
        await self._hang(f"forget {owner.user}")
        return 0, False

    async def _hang(self, what: str) -> None:
        self.asked.append(what)
        await self.give_up.wait()


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("model")


@pytest.fixture
async def world(model_dir: Path):
    async with ranker_world(model_dir) as made:
        yield made


def hang_the_tier(world: World) -> SilentDram:
    dram = SilentDram()
    world.ranker.productions.dram_work._dram = dram
    world.ranker.engine.dram_attached(True)
    return dram


async def test_a_rank_without_a_ticket_asks_no_memory_but_the_device(world: World) -> None:
    dram, behaviours = hang_the_tier(world), history(1, 300)
    response = await world.rank(world.rank_request(behaviours))
    assert (response.tier, response.fallback) == (ranker_pb2.TIER_FULL, ranker_pb2.FALLBACK_REASON_NO_TICKET)
    assert not dram.asked


async def test_a_rank_on_resident_psi_is_answered_while_the_tier_hangs(world: World) -> None:
    behaviours = history(2, 300)
    for _ in range(2):  # The second rank comes while the copy that the first one's end began is hanging.
        ticket = world.ticket(behaviours)
        await world.pre_infer(behaviours, ticket)
        await world.until_idle()
        if not isinstance(world.ranker.productions.dram_work._dram, SilentDram):
            dram = hang_the_tier(world)
        response = await world.rank(world.rank_request(behaviours, ticket=ticket))
        assert response.tier == ranker_pb2.TIER_DEVICE
    async with asyncio.timeout(5):
        while not dram.asked:  # noqa: ASYNC110 - the copy begins on a thread of its own
            await asyncio.sleep(0.005)
    assert dram.asked == ["store u1"], "only the copy out, which nobody waits for"


async def test_a_rank_whose_pre_infer_waits_for_the_tier_overtakes_it_by_its_deadline(world: World) -> None:
    world.ranker.engine.residency._books.reload_worth_ns = 60_000_000_000  # The pre-infer itself does not give up.
    dram, behaviours = hang_the_tier(world), history(3, 300)
    ticket = world.ticket(behaviours)
    await world.pre_infer(behaviours, ticket)
    await asyncio.sleep(0)
    assert dram.asked == ["lookup u1"]
    request, begun = world.rank_request(behaviours, ticket=ticket), time.monotonic()
    response = await world.stub.Rank(request, timeout=0.4)
    assert (response.tier, response.fallback) == (
        ranker_pb2.TIER_FULL,
        ranker_pb2.FALLBACK_REASON_PRODUCTION_FAILED,
    )
    assert time.monotonic() - begun < 0.4
    another = await world.rank(world.rank_request(behaviours, "u2"))
    assert another.tier == ranker_pb2.TIER_FULL, "and nobody else waits"


async def test_a_rank_goes_on_as_soon_as_the_tier_is_given_up(world: World) -> None:
    """A lookup that times out is a miss: the rank that joined gets the psi that is computed instead."""
    dram, behaviours = hang_the_tier(world), history(4, 300)
    ticket = world.ticket(behaviours)
    await world.pre_infer(behaviours, ticket)
    asyncio.get_running_loop().call_later(0.05, dram.give_up.set)
    response = await world.stub.Rank(world.rank_request(behaviours, ticket=ticket), timeout=5)
    assert (response.tier, response.psi_tokens) == (ranker_pb2.TIER_JOINED, 301)


async def test_a_pre_infer_that_waits_for_the_tier_is_computed_instead_in_time_for_its_rank(world: World) -> None:
    dram, behaviours = hang_the_tier(world), history(5, 300)
    ticket = world.ticket(behaviours)
    await world.pre_infer(behaviours, ticket)
    response = await world.stub.Rank(world.rank_request(behaviours, ticket=ticket), timeout=5)
    assert (response.tier, response.psi_tokens) == (ranker_pb2.TIER_JOINED, 301)
    assert dram.asked[0] == "lookup u1" and not dram.give_up.is_set()


async def test_the_device_bytes_of_a_ranker_stay_within_its_budget(model_dir: Path) -> None:
    """Design, section 5, I3: the arena is all there is, and it is allocated once, within the budget."""
    async with ranker_world(model_dir, pages=7) as world:
        arena, record = world.ranker.engine._arena, world.ranker.instance.record
        held = arena.untyped_storage().nbytes()
        assert held == arena.numel() * arena.element_size() == record.device_budget_bytes
        assert arena.shape[0] == 7
        budget_bytes = held
        for number in range(6):
            behaviours = history(10 + number, 300)
            await world.pre_infer(behaviours, world.ticket(behaviours, f"u{number}"))
            load = (await world.rank(world.rank_request(behaviours, f"u{number}"))).load
            assert 0 < load.device_used_bytes <= load.device_budget_bytes == budget_bytes
