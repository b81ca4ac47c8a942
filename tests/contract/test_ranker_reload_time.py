"""A DRAM tier that answers too late: psi is computed after the time that computing takes, and nothing is left held."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relaygr.v1 import ranker_pb2
from services.expander.service import ExpanderService
from services.ranker.adapters import dram_copier
from services.ranker.adapters.dram_known import KnownEntries
from services.ranker.core.lifecycle import PsiState
from tests.contract import expander_world
from tests.contract.expander_world import World as Host
from tests.contract.ranker_world import World, history, model_dir, ranker_world

__all__ = ["model_dir"]

PAGES = 8
"""Two psi of the histories below, and no third."""
TOKENS = 450


class _Held:
    """An expander whose verb answers only once it is let."""

    def __init__(self, service: ExpanderService):
        self._service = service
        self.verb = ""
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._service, name)

        async def answer(request: Any, context: Any) -> Any:
            if name == self.verb:
                self.asked.set()
                await self.may_answer.wait()
            return await method(request, context)

        return answer


class Rig:
    """A ranker beside an expander, and users who come and go."""

    def __init__(self, world: World, host: Host, held: _Held):
        self.world, self.host, self.held = world, host, held

    def counters(self) -> dict[str, int]:
        return self.world.ranker.engine.residency.snapshot().counters

    async def pre_infer(self, user: str) -> ranker_pb2.RankRequest:
        behaviours = history(int(user[1:]), TOKENS)
        ticket = self.world.ticket(behaviours, user)
        await self.world.pre_infer(behaviours, ticket)
        return self.world.rank_request(behaviours, user, ticket=ticket)

    async def fill(self) -> None:
        """u1 goes to DRAM and leaves the device."""
        for user in ("u1", "u2", "u3"):
            request = await self.pre_infer(user)
            await self.settled()
            await self.world.rank(request)
            await self.settled()
        assert self.counters()["evicted_space"]

    async def settled(self) -> None:
        def is_settled() -> bool:
            books = self.world.ranker.engine.residency._books
            counters = self.counters()
            are_copied = counters["spills_started"] == counters["spills_stored"] + counters["spills_failed"]
            return are_copied and all(entry.state == PsiState.RESIDENT for entry in books.entries.by_id.values())

        await expander_world.until(is_settled)

    async def assert_computed(self, request: ranker_pb2.RankRequest) -> None:
        await self.settled()
        response = await self.world.rank(request)
        assert response.tier == ranker_pb2.TIER_DEVICE
        assert await self.world.difference(request, response) <= 1e-5
        assert self.counters()["reloads_overdue"] == 1
        self.held.may_answer.set()
        await expander_world.until(lambda: self.host.tiering.occupancy().pins == 0)
        assert self.host.tiering.counters["pin_expired"] == 0, "let go, not left to its time"


@pytest.fixture
async def rig(model_dir: Path, tmp_path: Path) -> AsyncIterator[Rig]:
    helds: list[_Held] = []

    def wrap(service: ExpanderService) -> _Held:
        helds.append(_Held(service))
        return helds[-1]

    host = Host(tmp_path, segment_bytes=64_000_000, block_bytes=1 << 20, pin_ms=60_000.0)
    host.wrap = wrap
    await host.start()
    try:
        async with ranker_world(model_dir, pages=PAGES, expander=host.address) as world:
            await expander_world.until(lambda: world.ranker.engine.is_dram_attached)
            # The ranker's own patience with calls must not be what ends them.
            world.ranker.dram._call_timeout_s = 30.0
            # Each reload here begins with a call.
            world.ranker.dram._known = KnownEntries(0)
            rig = Rig(world, host, helds[-1])
            await rig.fill()
            yield rig
            rig.held.may_answer.set()
    finally:
        await host.close()


async def test_a_lookup_that_is_not_answered_in_time_is_computed_and_its_late_pin_let_go(rig: Rig) -> None:
    rig.held.verb = "Lookup"
    request = await rig.pre_infer("u1")
    await rig.held.asked.wait()
    await rig.assert_computed(request)
    assert rig.counters()["lookup_hits"] == 0


async def test_a_copy_that_takes_too_long_stops_and_is_computed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(transfer: Any, should_stop: Any) -> bool:
        loop.call_soon_threadsafe(begun.set)
        while not should_stop():
            pass
        return False

    monkeypatch.setattr(dram_copier, "move", slow)
    request = await rig.pre_infer("u1")
    await begun.wait()
    await rig.assert_computed(request)
    assert rig.counters()["reloads_failed"] == 1


async def test_a_reload_in_time_is_used(rig: Rig) -> None:
    request = await rig.pre_infer("u1")
    await rig.settled()
    assert (await rig.world.rank(request)).tier == ranker_pb2.TIER_DRAM
    assert rig.counters()["reloads_overdue"] == 0
