"""Ranks that pass the router by: a real etcd and router, small servers in the place of rankers."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc
import pytest

from relaygr.client import RelayClient
from relaygr.client.calls import Calls
from relaygr.errors import InvalidRequest
from relaygr.v1 import ranker_pb2
from relaygr.v1.common_pb2 import Ticket
from relaygr.v1.router_pb2 import Branch, RouterServiceReportEndedRequest
from services.router.direct import DirectRanks
from tests.contract.router_world import HISTORY, KEY, Freezer, failing, router_world, until

NOBODY = "127.0.0.1:1"


@pytest.fixture
async def world(tmp_path):
    async with router_world(tmp_path / "etcd", "a", "b") as made:
        yield made


@asynccontextmanager
async def calling(world, router=None, known=("a", "b")):
    """A client's calls, once its own view knows the instances and slots."""
    direct = DirectRanks((world.etcd.endpoint,), suspect_timeout_ms=100)
    calls = Calls(NOBODY, router or world.router.address, world.telemetry, direct)
    try:
        direct._started(world.telemetry)
        await until(lambda: direct.instance_ids == sorted(known))
        yield calls
    finally:
        await calls.close()


def rank_of(user, ticket=None):
    return ranker_pb2.RankRequest(
        user=user,
        ticket=ticket,
        history=HISTORY,
        candidates=ranker_pb2.Candidates(count=1, item_ids=bytes(8)),
    )


def watched(world, monkeypatch):
    """The ranks that the router sees, as they come."""
    seen, rank = [], world.router._view.rankers.rank

    async def noted(address, request, timeout_s):
        seen.append(request.head.user)
        return await rank(address, request, timeout_s)

    monkeypatch.setattr(world.router._view.rankers, "rank", noted)
    return seen


async def test_a_rank_goes_to_its_tickets_instance_and_no_router_is_asked(world):
    async with calling(world, router=NOBODY) as calls:
        for name in ("a", "b", "a"):
            answer = await calls.rank(rank_of("u", world.ticket(world.rankers[name])), 5.0)
            assert (answer.rank.instance_id, answer.branch) == (name, Branch.BRANCH_TICKET)


async def test_a_rank_without_a_ticket_goes_where_the_router_would_send_it(world):
    await until(lambda: world.router.core.table(world.rankers["a"].record.model.key) is not None)
    async with calling(world, router=NOBODY) as calls:
        for user in map(str, range(30)):
            answer = await calls.rank(rank_of(user), 5.0)
            assert answer.rank.instance_id == (await world.rank(user)).rank.instance_id


async def test_a_rank_whose_instance_is_killed_is_the_routers_and_the_next_is_at_once(world, monkeypatch):
    seen = watched(world, monkeypatch)
    async with calling(world) as calls:
        ticket = world.ticket(world.rankers["a"])
        assert (await calls.rank(rank_of("u", ticket), 5.0)).rank.instance_id == "a"
        assert not seen
        await world.rankers["a"].kill()
        for _ in range(2):
            answer = await calls.rank(rank_of("u", ticket), 5.0)
            assert (answer.rank.instance_id, answer.branch) == ("b", Branch.BRANCH_REROUTED)
        assert len(seen) >= 2
        # Fenced here as well, so that nobody waits for it a second time; the other is still called directly.
        before = len(seen)
        assert (await calls.rank(rank_of("v", world.ticket(world.rankers["b"], "v")), 5.0)).rank.instance_id == "b"
        assert len(seen) == before


async def test_an_instance_that_stands_still_is_left_to_the_router_in_time(tmp_path):
    async with router_world(tmp_path / "etcd", "a", "b", has_lanes=False, suspect_timeout_ms=100.0) as world:
        ranker = world.rankers["a"]
        freezer = Freezer(ranker.record.address)
        try:
            await ranker.registration.withdraw()
            ranker.record = replace(ranker.record, address=await freezer.start(), epoch=2)
            ranker.register()
            await until(lambda: world.router.core.members.is_current("a", 2))
            async with calling(world) as calls:
                ticket = world.ticket(ranker)
                assert (await calls.rank(rank_of("u", ticket), 5.0)).rank.instance_id == "a"
                freezer.freeze()
                began_s = time.monotonic()
                assert (await calls.rank(rank_of("u", ticket), 2.0)).rank.instance_id == "b"
                assert time.monotonic() - began_s < 2.0
        finally:
            await freezer.close()


async def test_a_ticket_of_an_instance_nobody_knows_here_goes_by_the_router(world, monkeypatch):
    seen = watched(world, monkeypatch)
    async with calling(world) as calls:
        ranker = world.rankers["a"]
        ranker.record = replace(ranker.record, epoch=7)
        foreign = world.ticket(ranker)
        await calls.rank(rank_of("u", foreign), 5.0)
        assert seen == ["u"]


async def test_a_ticket_that_cannot_be_read_is_refused_by_the_router(world):
    async with calling(world) as calls:
        with pytest.raises(InvalidRequest):
            await calls.rank(rank_of("u", Ticket(claims=b"\xff", mac=b"m")), 5.0)


async def test_ranks_go_on_directly_while_etcd_is_gone(world):
    async with calling(world, router=NOBODY) as calls:
        world.etcd.kill()
        for number in range(20):
            name = "ab"[number % 2]
            answer = await calls.rank(rank_of("u", world.ticket(world.rankers[name])), 5.0)
            assert answer.rank.instance_id == name


async def test_without_a_snapshot_every_rank_goes_by_the_router(world, monkeypatch):
    seen = watched(world, monkeypatch)
    calls = Calls(NOBODY, world.router.address, world.telemetry, DirectRanks((NOBODY,)))
    try:
        assert (await calls.rank(rank_of("u", world.ticket(world.rankers["b"])), 5.0)).rank.instance_id == "b"
        assert seen == ["u"]
    finally:
        await calls.close()


async def told(world, trigger_id, count):
    """The tickets a trigger is told of by its Resolves, once there are so many."""
    found = []
    async with asyncio.timeout(5.0):
        while len(found) < count:
            found += await world.ended(trigger_id)
    return found


async def test_a_trigger_is_told_of_tickets_that_ended_without_the_router(world, monkeypatch):
    seen = watched(world, monkeypatch)
    async with calling(world) as calls:
        names = [f"t-{number}" for number in range(100)]
        for name in names:
            ticket = world.ticket(world.rankers["a"], ticket_id=name, trigger_id="trigger-1")
            await calls.rank(rank_of("u", ticket), 5.0)
        assert await told(world, "trigger-1", len(names)) == names and seen == []


async def test_what_waits_to_be_told_is_told_when_the_client_closes(world):
    async with calling(world) as calls:
        ticket = world.ticket(world.rankers["a"], trigger_id="trigger-1")
        await calls.rank(rank_of("u", ticket), 5.0)
    assert await world.ended("trigger-1") == ["t-1"]


async def test_a_rank_that_consumes_no_ticket_ends_none(world):
    async with calling(world) as calls:
        ticket = world.ticket(world.rankers["a"], trigger_id="trigger-1")
        request = rank_of("u", ticket)
        request.bypass_psi = True
        await calls.rank(request, 5.0)
    assert await world.ended("trigger-1") == []


async def test_a_report_of_a_forged_ticket_is_refused_whole(world):
    tickets = [world.ticket(world.rankers["a"], trigger_id="x", key=key) for key in (KEY, b"another key, as long")]
    error = await failing(world.stub.ReportEnded(RouterServiceReportEndedRequest(tickets=tickets), timeout=5))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT and error.details().startswith("tickets: ")
    assert await world.ended("x") == []


async def test_a_report_of_too_many_tickets_is_refused(world):
    tickets = [world.ticket(world.rankers["a"])] * 65
    error = await failing(world.stub.ReportEnded(RouterServiceReportEndedRequest(tickets=tickets), timeout=5))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_ranks_go_on_directly_when_no_router_can_be_told(world):
    async with calling(world, router=NOBODY) as calls:
        for _ in range(3):
            ticket = world.ticket(world.rankers["a"], trigger_id="trigger-1")
            assert (await calls.rank(rank_of("u", ticket), 5.0)).rank.instance_id == "a"
            await until(lambda: calls._ended._telling is None)


async def test_a_clients_direct_way_is_closed_with_it(world):
    direct = DirectRanks((world.etcd.endpoint,))
    async with RelayClient(NOBODY, NOBODY, telemetry=world.telemetry, direct=direct):
        direct._started(world.telemetry)
    assert direct._view is None and await direct.rank(rank_of("u"), 1.0, world.telemetry) is None
