"""The device thread: order, preemption, cancellation; steps are gated, nothing sleeps."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from typing import Any

import pytest

from services.ranker.adapters.executor import Ending, Executor, Outcome
from services.ranker.core.schedule import Job, JobClass, Schedule

FAR_NS = 1 << 62


class Bench:
    """An executor and what its jobs did, in order."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.executor = Executor(Schedule(16), self.loop)
        self.log: list[str] = []
        self.endings: dict[int, asyncio.Future[Outcome]] = {}

    def steps(self, name: str, count: int, gate: threading.Event | None = None) -> Generator[None, None, str]:
        for index in range(count):
            if gate is not None and index == 1:
                gate.wait(10)
            self.log.append(f"{name}{index}")
            yield
        return name

    def submit(self, job_id: int, job_class: JobClass, work: Any) -> asyncio.Future[Outcome]:
        ended: asyncio.Future[Outcome] = self.loop.create_future()
        assert self.executor.submit(Job(job_id, job_class, FAR_NS, 1, True), work, ended.set_result)
        return ended


@pytest.fixture
async def bench() -> Any:
    made = Bench()
    yield made
    made.executor.close()


async def test_a_rank_sets_a_pre_infer_aside_between_two_steps(bench: Bench) -> None:
    gate = threading.Event()
    slow = bench.submit(1, JobClass.PRE_INFER, bench.steps("p", 4, gate))
    fast = bench.submit(2, JobClass.RANK, bench.steps("r", 2))
    gate.set()
    assert (await fast).value == "r"
    assert (await slow).value == "p"
    assert bench.log.index("r0") < bench.log.index("p2"), bench.log


async def test_a_cancelled_job_ends_at_its_next_step(bench: Bench) -> None:
    gate = threading.Event()
    ended = bench.submit(1, JobClass.PRE_INFER, bench.steps("p", 100, gate))
    bench.executor.cancel(1)
    gate.set()
    assert (await ended).ending is Ending.CANCELLED
    assert len(bench.log) < 100


async def test_a_waiting_job_that_is_cancelled_never_runs(bench: Bench) -> None:
    gate = threading.Event()
    first = bench.submit(1, JobClass.RANK, bench.steps("a", 2, gate))
    second = bench.submit(2, JobClass.RANK, bench.steps("b", 2))
    bench.executor.cancel(2)
    assert (await second).ending is Ending.CANCELLED
    gate.set()
    await first
    assert "b0" not in bench.log


async def test_a_promoted_pre_infer_is_not_set_aside_for_a_rank(bench: Bench) -> None:
    gate = threading.Event()
    lent = bench.submit(1, JobClass.PRE_INFER, bench.steps("p", 3, gate))
    bench.executor.promote(1, JobClass.RANK, FAR_NS - 1)
    later = bench.submit(2, JobClass.RANK, bench.steps("r", 1))
    gate.set()
    await asyncio.gather(lent, later)
    assert bench.log == ["p0", "p1", "p2", "r0"]


async def test_an_exception_ends_its_job_alone(bench: Bench) -> None:
    def broken() -> Generator[None, None, None]:
        yield
        raise ValueError("broken")

    failed = bench.submit(1, JobClass.RANK, broken())
    whole = bench.submit(2, JobClass.RANK, bench.steps("r", 1))
    outcome = await failed
    assert outcome.ending is Ending.FAILED and isinstance(outcome.value, ValueError)
    assert (await whole).ending is Ending.DONE


async def test_closing_ends_what_waits(bench: Bench) -> None:
    gate = threading.Event()
    running = bench.submit(1, JobClass.RANK, bench.steps("a", 3, gate))
    waiting = bench.submit(2, JobClass.RANK, bench.steps("b", 3))
    threading.Timer(0.05, gate.set).start()
    bench.executor.close()
    assert {(await running).ending, (await waiting).ending} == {Ending.CANCELLED}


async def test_the_device_is_waited_for_after_each_step_and_before_the_ending_is_told() -> None:
    told: list[Any] = []
    executor = Executor(Schedule(16), asyncio.get_running_loop(), step_ended=told.append)

    def work() -> Generator[None, None, str]:
        yield
        yield
        return "done"

    ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    executor.submit(Job(1, JobClass.RANK, FAR_NS, 1, True), work(), ended.set_result)
    assert (await ended).value == "done"
    assert told == [False, False, True]
    executor.close()


async def test_a_device_that_fails_in_a_step_fails_the_job() -> None:
    def failing(is_last: bool) -> None:
        raise RuntimeError("the device is gone")

    executor = Executor(Schedule(16), asyncio.get_running_loop(), step_ended=failing)

    def work() -> Generator[None, None, None]:
        yield

    ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    executor.submit(Job(1, JobClass.RANK, FAR_NS, 1, True), work(), ended.set_result)
    outcome = await ended
    assert outcome.ending is Ending.FAILED and str(outcome.value) == "the device is gone"
    executor.close()
