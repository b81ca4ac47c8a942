"""The router behind a real gRPC server, with a real etcd and small servers for rankers."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import grpc
import pytest

from relaygr.errors import InvalidRequest, PeerFailed, Refused, Stale
from relaygr.telemetry import names as telemetry_names
from relaygr.v1 import common_pb2, ranker_pb2, router_pb2
from services.router.core.events import CallFailed, FenceReason
from tests.contract.router_world import CUT, HISTORY, FakeRanker, Freezer, failing, router_world, until
from tests.unit.router.fleet import COST, GIB, LIMITS, MODEL, OTHER_MODEL


@pytest.fixture
async def world(tmp_path):
    async with router_world(tmp_path / "etcd", "a", "b") as made:
        yield made


@pytest.fixture
async def world_without_lanes(tmp_path):
    async with router_world(tmp_path / "etcd", "a", "b", has_lanes=False) as made:
        yield made


async def test_resolve_tells_what_a_trigger_needs(world):
    answer = await world.resolve()
    ranker = world.rankers[answer.instance_id]
    assert answer.instance_epoch == 1
    assert answer.branch == router_pb2.BRANCH_SLOT
    assert answer.model.weights_digest == MODEL.weights_digest
    assert answer.limits.candidates_max == LIMITS.candidates_max
    assert answer.cost.token_ns == COST.token_ns
    assert answer.load.device_budget_bytes == GIB
    assert answer.trigger_count == 1
    ranker.backlog_ns = 10**12
    await world.rank(ticket=world.ticket(ranker))
    again = await world.resolve()
    if again.instance_id == ranker.name:
        assert again.load.backlog_ns > 10**11
        assert again.rank_rate_hz > 0


async def test_pre_infer_and_rank_of_one_ticket_meet(world):
    for user in map(str, range(20)):
        ranker = world.rankers[(await world.resolve(user)).instance_id]
        ticket = world.ticket(ranker, user)
        before = len(ranker.asked)
        assert (await world.pre_infer(ticket)).acceptance == ranker_pb2.ACCEPTANCE_STARTED
        answer = await world.rank(user, ticket)
        assert answer.branch == router_pb2.BRANCH_TICKET
        assert answer.attempts == 1
        assert answer.rank.instance_id == ranker.name
        assert [method for method, _ in ranker.asked[before:]] == ["PreInfer", "Rank"]


async def test_a_request_is_forwarded_as_it_came(world):
    ranker = world.rankers["a"]
    ticket = world.ticket(ranker)
    await world.rank(ticket=ticket, request_id="r-1", request_time_s=77, bypass_psi=True)
    _, forwarded = ranker.asked[-1]
    assert (forwarded.request_id, forwarded.request_time_s, forwarded.bypass_psi) == ("r-1", 77, True)
    assert forwarded.history == HISTORY
    assert forwarded.ticket == ticket


async def test_killing_a_ranker_fails_no_rank(world):
    await world.rank(ticket=world.ticket(world.rankers["a"]))
    await world.rankers["a"].kill()
    attempts = []
    for user in map(str, range(30)):
        answer = await world.rank(user, world.ticket(world.rankers["a"], user))
        assert answer.rank.instance_id == "b"
        assert answer.branch == router_pb2.BRANCH_REROUTED
        attempts.append(answer.attempts)
    # Only the first one found out; afterwards the instance is fenced.
    assert attempts == [2] + [1] * 29
    fences = world.telemetry.points(telemetry_names.METRIC_ROUTE_FENCES)
    assert sum(point.value for point in fences) >= 1


async def test_ranks_in_flight_at_a_kill_are_answered_too(world):
    world.rankers["a"].pause_s = 30
    ranks = [
        asyncio.create_task(world.rank(user, world.ticket(world.rankers["a"], user))) for user in map(str, range(10))
    ]
    await until(lambda: len(world.rankers["a"].asked) == 10)
    await world.rankers["a"].kill()
    answers = await asyncio.gather(*ranks)
    assert {answer.rank.instance_id for answer in answers} == {"b"}


async def test_a_fenced_ranker_that_answers_again_is_used_again(world):
    ranker = world.rankers["a"]
    address = ranker.record.address
    await ranker.kill()
    await world.rank(ticket=world.ticket(ranker))
    assert world.router.core.members.is_fenced("a", 1)
    await ranker.start(address)
    await until(lambda: not world.router.core.members.is_fenced("a", 1))
    assert (await world.rank(ticket=world.ticket(ranker))).rank.instance_id == "a"


async def test_a_ranker_that_restarted_is_used_and_its_old_tickets_are_ranked(world):
    old = world.rankers["a"]
    ticket = world.ticket(old)
    await old.kill()
    await old.registration.withdraw()
    reborn = await FakeRanker(world, "a", epoch=2).start()
    world.rankers["a"] = reborn
    reborn.register()
    await until(lambda: world.router.core.members.is_current("a", 2))
    answer = await world.rank(ticket=ticket)
    assert answer.branch == router_pb2.BRANCH_REROUTED
    declined = await world.pre_infer(ticket)
    assert declined.acceptance == ranker_pb2.ACCEPTANCE_DECLINED
    assert declined.reason == ranker_pb2.DECLINE_REASON_FOREIGN_TICKET
    assert (await world.rank(ticket=world.ticket(reborn))).rank.instance_epoch == 2


async def test_a_stopped_ranker_does_not_eat_the_whole_deadline(world_without_lanes):
    world = world_without_lanes
    ranker = world.rankers["a"]
    freezer = Freezer(ranker.record.address)
    try:
        await ranker.registration.withdraw()
        ranker.record = replace(ranker.record, address=await freezer.start(), epoch=2)
        ranker.register()
        await until(lambda: world.router.core.members.is_current("a", 2))
        ticket = world.ticket(ranker)
        assert (await world.rank(ticket=ticket)).rank.instance_id == "a"
        freezer.freeze()
        began = time.monotonic()
        answer = await world.rank(ticket=ticket, timeout_s=2)
        assert (answer.rank.instance_id, answer.attempts) == ("b", 2)
        assert 0.9 < time.monotonic() - began < 1.9
        await until(lambda: world.router.core.members.is_fenced("a", 2))
        assert (await world.rank(ticket=ticket, timeout_s=2)).attempts == 1
        freezer.thaw()
        await until(lambda: not world.router.core.members.is_fenced("a", 2))
        assert (await world.rank(ticket=ticket, timeout_s=2)).rank.instance_id == "a"
    finally:
        await freezer.close()


async def test_ranks_with_short_deadlines_survive_a_stopped_ranker(world_without_lanes):
    world = world_without_lanes
    ranker = world.rankers["a"]
    freezer = Freezer(ranker.record.address)
    try:
        await ranker.registration.withdraw()
        ranker.record = replace(ranker.record, address=await freezer.start(), epoch=2)
        ranker.register()
        await until(lambda: world.router.core.members.is_current("a", 2))
        await world.rank(ticket=world.ticket(ranker))
        freezer.freeze()
        began = time.monotonic()
        while not world.router.core.members.is_fenced("a", 2):
            answer = await world.rank(ticket=world.ticket(ranker), timeout_s=0.2)
            assert answer.rank.instance_id == "b"
        assert time.monotonic() - began < 1
    finally:
        await freezer.close()


async def test_a_slow_ranker_that_answers_its_health_check_is_waited_for(world):
    ranker = world.rankers["a"]
    ranker.pause_s = 0.9
    answer = await world.rank(ticket=world.ticket(ranker), timeout_s=1.2)
    assert answer.rank.instance_id == "a"
    assert answer.attempts == 1
    assert world.rankers["b"].asked == []


async def test_a_short_deadline_fences_nobody(world):
    ranker = world.rankers["a"]
    for each in world.rankers.values():
        each.pause_s = 0.5
    error = await failing(world.rank(ticket=world.ticket(ranker), timeout_s=0.05))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.sleep(0.4)  # Longer than a suspected instance's health check may take.
    assert not world.router.core.members.is_fenced("a", 1)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Refused("queue is full"), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (InvalidRequest("candidates.item_ids", "too short"), grpc.StatusCode.INVALID_ARGUMENT),
        (PeerFailed("device", "broke"), grpc.StatusCode.INTERNAL),
    ],
)
async def test_an_answer_that_refuses_is_passed_on_and_fences_nobody(world, error, code):
    ranker = world.rankers["a"]
    ranker.error = error
    failed = await failing(world.rank(ticket=world.ticket(ranker)))
    assert failed.code() is code
    assert str(error).rpartition(": ")[2] in failed.details()
    assert not world.router.core.members.is_fenced("a", 1)
    assert world.rankers["b"].asked == []


async def test_a_rank_refused_as_stale_is_resolved_once_more(world):
    world.rankers["a"].error = Stale("another model by now")
    answer = await world.rank(ticket=world.ticket(world.rankers["a"]))
    assert (answer.rank.instance_id, answer.attempts) == ("b", 2)
    assert not world.router.core.members.is_fenced("a", 1)


async def test_with_no_ranker_left_a_rank_is_unavailable(world):
    for ranker in world.rankers.values():
        await ranker.kill()
    error = await failing(world.rank())
    assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_rank_is_never_scored_by_another_model(world):
    (other,) = await world.add_rankers("z", model=OTHER_MODEL)
    await world.knows("a", "b", "z")
    ticket = world.ticket(other)
    assert (await world.rank(ticket=ticket)).rank.model.version == OTHER_MODEL.version
    await other.kill()
    error = await failing(world.rank(ticket=ticket))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert world.rankers["a"].asked == world.rankers["b"].asked == []


async def test_a_pre_infer_to_a_killed_ranker_is_declined(world):
    ranker = world.rankers["a"]
    await ranker.kill()
    for _ in range(2):
        declined = await world.pre_infer(world.ticket(ranker))
        assert declined.acceptance == ranker_pb2.ACCEPTANCE_DECLINED
        assert declined.reason == ranker_pb2.DECLINE_REASON_UNREACHABLE
    assert world.rankers["b"].asked == []


async def bad_requests(world):
    ranker = world.rankers["a"]
    genuine = world.ticket(ranker)
    forged = world.ticket(ranker, key=b"another-key-0123")
    tampered = common_pb2.Ticket(claims=genuine.claims + b"\x00", mac=genuine.mac)
    garbage = common_pb2.Ticket(claims=b"\xff" * 10, mac=bytes(32))
    other_cut = common_pb2.History(cut=common_pb2.Cut(behaviour_count=5), inline=b"opaque")
    return [
        ("ticket", lambda: world.rank(ticket=forged)),
        ("ticket", lambda: world.rank(ticket=tampered)),
        ("ticket", lambda: world.rank(ticket=garbage)),
        ("ticket", lambda: world.rank(ticket=common_pb2.Ticket())),
        ("ticket", lambda: world.rank("somebody-else", genuine)),
        ("ticket", lambda: world.rank("u", genuine, tenant="other")),
        ("ticket", lambda: world.rank("u", genuine, history=other_cut)),
        ("ticket", lambda: world.pre_infer(forged)),
        ("ticket", lambda: world.pre_infer(common_pb2.Ticket())),
        ("ticket", lambda: world.pre_infer(genuine, other_cut)),
        ("ticket", lambda: world.stub.Release(router_pb2.RouterServiceReleaseRequest(ticket=forged), timeout=5)),
        ("rank.user", lambda: world.rank("")),
        ("rank.user", lambda: world.rank("x" * 129)),
        ("rank.user", lambda: world.rank("a\x00b")),
        ("rank.tenant", lambda: world.rank("u", tenant="t" * 65)),
        ("rank.request_id", lambda: world.rank("u", request_id="r" * 129)),
        ("user", lambda: world.resolve("")),
        ("tenant", lambda: world.resolve("u", tenant="t" * 65)),
        ("user", lambda: world.forget("")),
    ]


async def test_bad_input_is_refused_by_name_and_reaches_no_ranker(world):
    for field, call in await bad_requests(world):
        error = await failing(call())
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, (field, error.details())
        assert error.details().partition(": ")[0] == field
    assert world.rankers["a"].asked == world.rankers["b"].asked == []


async def test_a_release_reaches_the_tickets_instance(world):
    ranker = world.rankers["a"]
    request = router_pb2.RouterServiceReleaseRequest(ticket=world.ticket(ranker))
    assert (await world.stub.Release(request, timeout=5)).was_held
    assert ranker.asked[-1][0] == "Release"
    await ranker.kill()
    assert not (await world.stub.Release(request, timeout=5)).was_held


async def test_a_rank_that_was_answered_is_told_to_the_trigger_of_its_ticket_once(world):
    ranker = world.rankers["a"]
    assert await world.ended("trigger-1") == []
    for ticket_id, trigger_id in (("t-1", "trigger-1"), ("t-2", "trigger-2"), ("t-3", "trigger-1")):
        await world.rank(ticket=world.ticket(ranker, ticket_id=ticket_id, trigger_id=trigger_id))
    assert await world.ended("trigger-1") == ["t-1", "t-3"]
    assert await world.ended("trigger-1") == []
    assert await world.ended("trigger-2") == ["t-2"]


async def test_a_reservation_that_was_given_back_is_told_once_and_one_that_was_not_held_never(world):
    ranker = world.rankers["a"]
    await world.release(world.ticket(ranker, ticket_id="t-1", trigger_id="trigger-1"))
    ranker.was_held = False
    await world.release(world.ticket(ranker, ticket_id="t-2", trigger_id="trigger-1"))
    assert await world.ended("trigger-1") == ["t-1"]
    assert await world.ended("trigger-1") == []


async def test_a_pre_infer_ends_no_ticket(world):
    await world.pre_infer(world.ticket(world.rankers["a"], trigger_id="trigger-1"))
    assert await world.ended("trigger-1") == []


async def test_a_rank_that_failed_ends_no_ticket(world):
    ranker = world.rankers["a"]
    ranker.error = Refused("queue is full")
    await failing(world.rank(ticket=world.ticket(ranker, trigger_id="trigger-1")))
    assert await world.ended("trigger-1") == []


async def test_a_rank_answered_elsewhere_ends_no_ticket(world):
    ranker = world.rankers["a"]
    ranker.error = Stale("another model by now")
    ticket = world.ticket(ranker, trigger_id="trigger-1")
    assert (await world.rank(ticket=ticket)).branch == router_pb2.BRANCH_REROUTED
    assert await world.ended("trigger-1") == []


async def test_a_rank_that_bypasses_psi_ends_no_ticket(world):
    # The instance goes on holding what the ticket reserved: such a rank asks for none of it.
    await world.rank(ticket=world.ticket(world.rankers["a"], trigger_id="trigger-1"), bypass_psi=True)
    assert await world.ended("trigger-1") == []


async def test_whoever_names_no_trigger_is_told_of_no_ticket(world):
    await world.rank(ticket=world.ticket(world.rankers["a"]))
    assert await world.ended("") == []


async def test_the_load_that_resolve_answers_is_without_what_the_user_itself_brings(world):
    before_ns = time.monotonic_ns()
    brings = {"expected_ns": 20_000_000, "rank_on_psi_ns": 5_000_000, "window_ns": 10**9, "will_admit": True}
    answer = await world.resolve(**brings)
    assert answer.load.backlog_ns == 0
    # For the others it counts: a production now, and a rank later.
    assert world.router.core.load.load_ns(answer.instance_id, before_ns) == 15_000_000
    assert world.router.core.load.pressure_ns(answer.instance_id, before_ns) == 20_000_000


async def test_forget_reaches_every_instance_and_names_those_not_reached(world):
    answer = await world.forget()
    assert (answer.device_entries, answer.dram_entries, list(answer.unreached_instance_ids)) == (4, 2, [])
    # A fenced instance is asked all the same: it may be there.
    world.router.driver.feed(CallFailed("a", 1, FenceReason.UNREACHABLE))
    assert list((await world.forget()).unreached_instance_ids) == []
    world.rankers["a"].dram_reached = False
    await world.rankers["b"].kill()
    answer = await world.forget()
    assert list(answer.unreached_instance_ids) == ["a", "b"]
    assert answer.device_entries == 2


async def test_choices_are_traced_by_hash_and_never_by_name(world):
    await world.rank("a-private-name", world.ticket(world.rankers["a"], "a-private-name"))
    spans = world.spans.get_finished_spans()
    (choice,) = [span for span in spans if span.name == telemetry_names.SPAN_ROUTE_CHOOSE]
    assert choice.attributes[telemetry_names.ATTR_ROUTE_BRANCH] == "TICKET"
    assert choice.attributes[telemetry_names.ATTR_INSTANCE_ID] == "a"
    assert "a-private-name" not in repr([dict(span.attributes) for span in spans])
    trace_ids = {span.context.trace_id for span in spans if span.name.endswith("/Rank")}
    assert len(trace_ids) == 1


async def test_in_flight_work_returns_to_nothing(world):
    await asyncio.gather(*(world.rank(user) for user in map(str, range(50))))
    for name in world.rankers:
        assert world.router.core.load.load_ns(name, time.monotonic_ns() + 10**15) == 0
    world.router.core.check()


async def test_a_rank_away_from_its_psi_counts_as_full_in_the_view_of_load(world):
    away, there = world.rankers["a"], world.rankers["b"]
    await away.kill()
    there.pause_s = 30
    cost, tokens = there.record.cost, CUT.behaviour_count + 1
    for ranker, expected_ns in ((there, cost.rank_ns(1, 0, tokens)), (away, cost.full_ns(1, 0, tokens))):
        asked = len(there.asked)
        call = asyncio.create_task(world.rank(ticket=world.ticket(ranker)))
        await until(lambda asked=asked: len(there.asked) > asked)
        assert world.router.core.load.load_ns("b", time.monotonic_ns()) == expected_ns
        call.cancel()
        await until(lambda: world.router.core.load.load_ns("b", time.monotonic_ns()) == 0)
