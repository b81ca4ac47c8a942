"""What must not go wrong at one ranker: late ends, shared histories, stores that change, bad input."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from relaygr.config import ConfigError, load
from relaygr.domain.identity import UserKey
from relaygr.telemetry import names
from relaygr.v1 import ranker_pb2
from services.ranker.adapters.executor import Ending, Executor, Outcome
from services.ranker.config import RankerConfig
from services.ranker.core import events as ev
from services.ranker.core.schedule import Job, JobClass, Schedule
from tests.contract.ranker_world import World, history, model_dir, ranker_world, world

__all__ = ["model_dir", "world"]

FAR_NS = 1 << 62
BLOCKER_ID = 2_000_000_001


@contextmanager
def busy_device(world: World) -> Iterator[None]:
    """Nothing else runs on the device within this block."""
    let_go = threading.Event()

    def hold():
        let_go.wait(5)
        yield

    job = Job(BLOCKER_ID, JobClass.RANK, 0, 1, droppable=False)
    assert world.ranker.engine._executor.submit(job, hold(), lambda outcome: None)
    try:
        yield
    finally:
        let_go.set()


class SlowDram:
    """A DRAM tier that finds nothing, and only when it is told to answer."""

    def __init__(self) -> None:
        self.answer = asyncio.Event()
        self.forgotten: list[UserKey] = []

    def may_hold(self, key):
        return True

    async def lookup(self, key):
        await self.answer.wait()

    async def store(self, *_) -> bool:
        return False

    async def forget(self, owner: UserKey) -> tuple[int, bool]:
        self.forgotten.append(owner)
        await self.answer.wait()
        return 1, True


async def until(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


def attach(world: World, dram: SlowDram) -> None:
    world.ranker.productions.dram_work._dram = dram
    world.ranker.engine.dram_attached(True)


async def test_a_joiners_deadline_does_not_end_the_production_of_an_open_ticket(world: World) -> None:
    behaviours = history(30, 1000)
    ticket = world.ticket(behaviours)
    with busy_device(world):
        await world.pre_infer(behaviours, ticket)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await world.stub.Rank(world.rank_request(behaviours), timeout=0.3)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert world.ranker.engine.residency.snapshot().counters["rank_waited"] == 1
        await asyncio.sleep(0.1)
    await world.until_idle()
    response = await world.rank(world.rank_request(behaviours, ticket=ticket))
    assert response.tier == ranker_pb2.TIER_DEVICE


async def test_a_production_that_a_rank_waits_for_stays_behind_ranks(world: World) -> None:
    behaviours = history(43, 1000)
    ticket = world.ticket(behaviours)
    with busy_device(world):
        await world.pre_infer(behaviours, ticket)
        joined = asyncio.ensure_future(world.rank(world.rank_request(behaviours, ticket=ticket)))
        await until(lambda: world.ranker.engine.residency.snapshot().counters["rank_waited"] == 1)
        queues = world.ranker.engine.load()
        # The rank is the one that keeps the device busy: no production has become another.
        assert (queues.rank_jobs, queues.pre_infer_jobs) == (1, 1)
    assert (await joined).tier == ranker_pb2.TIER_JOINED
    assert world.ranker.engine._executor._schedule.spent_ns[JobClass.JOINED] > 0


async def test_a_rank_without_a_deadline_is_answered_by_the_default_one(model_dir: Path) -> None:
    async with ranker_world(model_dir, rank_deadline_default_ms=100.0) as world:
        with busy_device(world):
            begun = time.monotonic()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await asyncio.wait_for(world.stub.Rank(world.rank_request(history(31, 100))), 3)
            assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            assert time.monotonic() - begun < 1.0
        await world.until_idle()


async def test_users_with_equal_histories_do_not_share_the_one_kept_for_production(world: World) -> None:
    dram = SlowDram()
    attach(world, dram)
    behaviours = history(32, 300)
    first, second = world.ticket(behaviours, "u1"), world.ticket(behaviours, "u2")
    await world.pre_infer(behaviours, first)
    world.ranker.engine.dram_attached(False)
    await world.pre_infer(behaviours, second)
    await world.until_idle()
    await until(lambda: world.ranker.engine.residency.snapshot().resident_entries >= 1)
    dram.answer.set()
    await until(lambda: not world.ranker.productions.dram_work._jobs)
    await asyncio.sleep(0.05)
    await world.until_idle()
    for user, ticket in (("u1", first), ("u2", second)):
        response = await world.rank(world.rank_request(behaviours, user, ticket=ticket))
        assert response.tier == ranker_pb2.TIER_DEVICE, user


async def test_a_forgotten_users_history_is_not_kept(world: World) -> None:
    behaviours = history(33, 300)
    with busy_device(world):
        await world.pre_infer(behaviours, world.ticket(behaviours))
        await world.pre_infer(behaviours, world.ticket(behaviours, "u2"))
        await world.stub.Forget(ranker_pb2.ForgetRequest(user="u1"), timeout=5)
        kept = list(world.ranker.productions._sources)
        assert [key.owner.user for key, _ in kept] == ["u2"]
    await world.until_idle()


async def test_forgetting_reports_its_own_user_only(world: World) -> None:
    dram = SlowDram()
    dram.answer.set()
    attach(world, dram)
    for number in range(3):
        await world.stub.Forget(ranker_pb2.ForgetRequest(user=f"u{number}"), timeout=5)
    # The tier went and came: what was forgotten meanwhile is erased there again.
    world.ranker.engine.dram_attached(False)
    world.ranker.engine.dram_attached(True)
    await until(lambda: len(dram.forgotten) == 6)
    response = await world.stub.Forget(ranker_pb2.ForgetRequest(user="u9"), timeout=5)
    assert response.dram_entries == 1


async def test_what_was_forgotten_while_the_tier_was_away_does_not_reach_it_all_at_once(world: World) -> None:
    for number in range(200):
        await world.ranker.engine.forget(UserKey("default", f"u{number}"))
    dram = SlowDram()
    attach(world, dram)
    for _ in range(10):
        await asyncio.sleep(0)
    assert 0 < len(dram.forgotten) <= 16
    own = asyncio.create_task(world.ranker.engine.forget(UserKey("default", "own")))
    await until(lambda: UserKey("default", "own") in dram.forgotten)
    dram.answer.set()
    assert await own == (0, 1, True)
    await until(lambda: len(dram.forgotten) == 201)


async def test_declined_pre_infers_cost_an_accepted_one_nothing(model_dir: Path) -> None:
    async with ranker_world(model_dir, tickets_max=2) as world:
        dram = SlowDram()
        attach(world, dram)
        behaviours = history(35, 300)
        ticket = world.ticket(behaviours)
        await world.pre_infer(behaviours, ticket)
        await world.pre_infer(history(36, 300), world.ticket(history(36, 300), "u2"))
        for seed in range(37, 40):
            declined = await world.pre_infer(history(seed, 300), world.ticket(history(seed, 300), f"u{seed}"))
            assert declined.reason == ranker_pb2.DECLINE_REASON_OVERLOADED
        dram.answer.set()
        await until(lambda: world.ranker.engine.residency.snapshot().resident_entries == 2)
        response = await world.rank(world.rank_request(behaviours, ticket=ticket))
        assert response.tier == ranker_pb2.TIER_DEVICE


async def test_a_forgotten_users_declined_history_is_not_kept(world: World) -> None:
    await world.stub.Forget(ranker_pb2.ForgetRequest(user="u1"), timeout=5)
    behaviours = history(36, 300)
    declined = await world.pre_infer(behaviours, world.ticket(behaviours))
    assert declined.reason == ranker_pb2.DECLINE_REASON_FORGOTTEN
    assert not world.ranker.productions._sources


async def test_a_rank_that_fails_while_it_is_placed_leaves_nothing_behind(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_):
        raise RuntimeError("a bug")

    behaviours = history(37, 1000)
    with busy_device(world):
        await world.pre_infer(behaviours, world.ticket(behaviours))
        monkeypatch.setattr(world.ranker.engine._executor, "promote", broken)
        with pytest.raises(grpc.aio.AioRpcError):
            await world.rank(world.rank_request(behaviours))
        assert not world.ranker.engine.residency._books.ranks
    await world.until_idle()


async def test_closing_under_load_ends_in_time(model_dir: Path) -> None:
    async with ranker_world(model_dir) as world:
        calls = []
        for seed in range(50, 60):
            behaviours = history(seed, 1000)
            ticket = world.ticket(behaviours, f"u{seed}")
            await world.pre_infer(behaviours, ticket)
            request = world.rank_request(behaviours, f"u{seed}", ticket=ticket)
            calls.append(asyncio.ensure_future(world.stub.Rank(request, timeout=10)))
        await asyncio.sleep(0.02)
        begun = time.monotonic()
    assert time.monotonic() - begun < 3.0
    answers = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 5)
    assert len(answers) == 10
    assert not world.ranker.engine._executor._thread.is_alive()


async def test_a_forget_goes_on_when_its_caller_leaves(world: World) -> None:
    dram = SlowDram()
    attach(world, dram)
    call = asyncio.create_task(world.ranker.engine.forget(UserKey("default", "u1")))
    await until(lambda: dram.forgotten)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.sleep(0)
    tasks = list(world.ranker.productions.dram_work._tasks)
    assert tasks
    dram.answer.set()
    assert await asyncio.gather(*tasks) == [(1, True)]


async def test_a_rank_whose_end_cannot_be_recorded_is_answered_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = world.ranker.engine.residency.handle

    def broken(event, now_ns):
        effects = real(event, now_ns)
        if isinstance(event, ev.RankEnded):
            raise RuntimeError("a bug")
        return effects

    monkeypatch.setattr(world.ranker.engine.residency, "handle", broken)
    monkeypatch.setattr(asyncio.get_running_loop(), "call_exception_handler", lambda context: None)
    response = await world.stub.Rank(world.rank_request(history(34, 100)), timeout=3)
    assert response.logits


class Awkward:
    """Work that fails when it is told to end early."""

    def __iter__(self):
        return self

    def __next__(self) -> None:
        time.sleep(0.001)

    def close(self) -> None:
        raise RuntimeError("ended in a bad moment")


async def test_work_that_fails_to_end_does_not_stop_the_device() -> None:
    executor = Executor(Schedule(8), asyncio.get_running_loop())
    endings: asyncio.Queue[Outcome] = asyncio.Queue()
    executor.submit(Job(1, JobClass.RANK, FAR_NS, 1, droppable=True), Awkward(), endings.put_nowait)
    await asyncio.sleep(0.02)
    executor.cancel(1)
    assert (await asyncio.wait_for(endings.get(), 2)).ending is Ending.CANCELLED

    def three():
        yield
        return 3

    executor.submit(Job(2, JobClass.RANK, FAR_NS, 1, droppable=True), three(), endings.put_nowait)
    assert (await asyncio.wait_for(endings.get(), 2)).value == 3
    executor.close()


async def test_what_a_page_held_before_is_never_read(world: World) -> None:
    world.ranker.engine._arena.fill_(float("nan"))
    behaviours = history(41, 450)
    ticket = world.ticket(behaviours)
    await world.pre_infer(behaviours, ticket)
    await world.until_idle()
    request = world.rank_request(behaviours, ticket=ticket)
    response = await world.rank(request)
    assert response.tier == ranker_pb2.TIER_DEVICE
    assert await world.difference(request, response) <= 1e-5


def test_a_ticket_key_that_is_too_short_stops_the_start() -> None:
    with pytest.raises(ConfigError, match="ticket_key must be at least 16 bytes"):
        load(RankerConfig, "RELAYGR_RANKER", {"RELAYGR_RANKER_MODEL": "m", "RELAYGR_RANKER_TICKET_KEY": "00ff"})


async def test_waits_for_a_preempted_job_and_longest_steps_are_metrics(world: World) -> None:
    behaviours = history(42, 1000)
    reached, let_go = threading.Event(), threading.Event()

    def slow():
        reached.set()
        let_go.wait(5)
        yield

    job = Job(BLOCKER_ID, JobClass.PRE_INFER, FAR_NS, 1, droppable=False)
    assert world.ranker.engine._executor.submit(job, slow(), lambda outcome: None)
    assert await asyncio.to_thread(reached.wait, 5)
    call = asyncio.ensure_future(world.stub.Rank(world.rank_request(behaviours, bypass_psi=True), timeout=5))
    await until(lambda: world.ranker.engine.load().full_jobs == 1)
    let_go.set()
    await call
    await world.until_idle()
    (wait,) = world.telemetry.points(names.METRIC_DEVICE_PREEMPT_WAIT)
    assert (wait.count, wait.attributes) == (1, {names.ATTR_DEVICE_JOB_CLASS: "FULL"})
    steps = world.telemetry.points(names.METRIC_DEVICE_STEP_LONGEST)
    assert {point.attributes[names.ATTR_DEVICE_JOB_CLASS] for point in steps} == {"FULL", "PRE_INFER"}
