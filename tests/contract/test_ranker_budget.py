"""When a rank is due: by the budget of its ticket, or the instance's; and that the device's order knows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from relaygr.v1 import ranker_pb2
from services.ranker.core import events as ev
from services.ranker.core.schedule import Job
from tests.contract.ranker_world import World, history, ranker_world

MS = 1_000_000


class Heard:
    """Ranks as the core is asked, and jobs as the device is."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch):
        self.asked: list[tuple[ev.RankAsked, int]] = []
        self.jobs: list[Job] = []
        engine = world.ranker.engine
        handle, submit = engine.residency.handle, engine._executor.submit

        def handled(event, now_ns):
            if isinstance(event, ev.RankAsked):
                self.asked.append((event, now_ns))
            return handle(event, now_ns)

        def submitted(job, work, on_end):
            self.jobs.append(job)
            return submit(job, work, on_end)

        monkeypatch.setattr(engine.residency, "handle", handled)
        monkeypatch.setattr(engine._executor, "submit", submitted)

    def budget_ms(self) -> float:
        """Of the latest rank, less the way through the service."""
        event, now_ns = self.asked[-1]
        assert event.due_ns is not None and self.jobs[-1].due_ns == event.due_ns
        return (event.due_ns - now_ns) / MS


@pytest.mark.parametrize(("told_ns", "wanted_ms"), [(0, 700.0), (300 * MS, 300.0)])
async def test_a_rank_is_due_by_the_budget_its_ticket_tells(tmp_path: Path, monkeypatch, told_ns, wanted_ms):
    async with ranker_world(tmp_path, rank_budget_ms=700.0) as world:
        heard, behaviours = Heard(world, monkeypatch), history(1, 150)
        ticket = world.ticket(behaviours, rank_budget_ns=told_ns)
        await world.pre_infer(behaviours, ticket)
        await world.until_idle()
        answer = await world.rank(world.rank_request(behaviours, ticket=ticket))
        assert answer.tier == ranker_pb2.TIER_DEVICE
        assert wanted_ms - 200 < heard.budget_ms() <= wanted_ms


async def test_without_a_budget_nothing_is_set_aside(tmp_path: Path, monkeypatch):
    async with ranker_world(tmp_path, rank_budget_ms=0.0) as world:
        heard = Heard(world, monkeypatch)
        await world.rank(world.rank_request(history(1, 150)))
        assert heard.asked[-1][0].due_ns is None and heard.jobs[-1].due_ns is None
