"""The device thread: order, preemption, cancellation; steps are gated, nothing sleeps."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Generator
from typing import Any

import pytest

from services.ranker.adapters.executor import Ending, Executor, Outcome, Work
from services.ranker.core.schedule import Job, JobClass, Schedule

FAR_NS = 1 << 62


class Gate:
    """Where a step waits; both sides wait for each other, so that nothing is left to chance."""

    def __init__(self) -> None:
        self._arrived, self._let = threading.Semaphore(0), threading.Semaphore(0)

    def pass_through(self) -> None:
        """On the device's thread."""
        self._arrived.release()
        assert self._let.acquire(timeout=10)

    async def reached(self) -> None:
        """Until the step stands at the gate."""
        assert await asyncio.to_thread(self._arrived.acquire, timeout=10)

    def let(self, count: int = 1) -> None:
        """Let steps through."""
        self._let.release(count)


class Bench:
    """An executor and what its jobs did, in order."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.log: list[str] = []
        self.observed: list[tuple[Job, Outcome]] = []
        self.executor = Executor(Schedule(16), self.loop, observe=lambda *seen: self.observed.append(seen))

    def steps(self, name: str, count: int, gate: threading.Event | None = None) -> Generator[None, None, str]:
        for index in range(count):
            if gate is not None and index == 1:
                gate.wait(10)
            self.log.append(f"{name}{index}")
            yield
        return name

    def submit(
        self, job_id: int, job_class: JobClass, work: Any, deadline_ns: int = FAR_NS, expected_ns: int = 1
    ) -> asyncio.Future[Outcome]:
        ended: asyncio.Future[Outcome] = self.loop.create_future()
        assert self.executor.submit(Job(job_id, job_class, deadline_ns, expected_ns, True), work, ended.set_result)
        return ended

    def gated(self, name: str, count: int) -> tuple[Work, Gate]:
        """Steps that each wait to be let through, so that a test decides what happens between two of them."""
        gate = Gate()
        return self._gated(name, count, gate), gate

    def _gated(self, name: str, count: int, gate: Gate) -> Work:
        try:
            for index in range(count):
                gate.pass_through()
                self.log.append(f"{name}{index}")
                yield
        finally:
            self.log.append(f"{name} let go on {threading.current_thread().name}")
        return name


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


async def test_whatever_changes_the_schedule_asks_the_running_step_to_yield(bench: Bench) -> None:
    for change in ("submit", "promote", "demote", "cancel"):
        asked, begun = threading.Event(), threading.Event()

        def ask(is_asking: bool, asked: threading.Event = asked) -> None:
            asked.set() if is_asking else asked.clear()

        def until_asked(asked: threading.Event = asked, begun: threading.Event = begun) -> Work:
            begun.set()
            assert asked.wait(10), "nobody asked"
            yield

        bench.executor.close()
        bench.executor = Executor(Schedule(16), bench.loop, ask_to_yield=ask)
        long = bench.submit(1, JobClass.PRE_INFER, until_asked())
        assert await asyncio.to_thread(begun.wait, 10)
        match change:
            case "submit":
                assert (await bench.submit(2, JobClass.RANK, bench.steps("r", 1))).ending is Ending.DONE
            case "promote":
                bench.executor.promote(1, JobClass.JOINED, FAR_NS - 1)
            case "demote":
                bench.executor.demote(1)
            case "cancel":
                bench.executor.cancel(1)
        assert (await long).ending is (Ending.CANCELLED if change == "cancel" else Ending.DONE)


async def test_the_ask_is_taken_back_before_the_schedule_is_looked_at(bench: Bench) -> None:
    seen: list[str] = []
    schedule = Schedule(16)
    take, must_yield = schedule.take, schedule.must_yield
    schedule.take = lambda now_ns: seen.append("look") or take(now_ns)  # type: ignore[method-assign]
    schedule.must_yield = lambda *asked: seen.append("look") or must_yield(*asked)  # type: ignore[method-assign]
    bench.executor.close()
    bench.executor = Executor(schedule, bench.loop, ask_to_yield=lambda is_asking: seen.append(f"ask {is_asking}"))
    await bench.submit(1, JobClass.PRE_INFER, bench.steps("p", 3))
    looks = [index for index, what in enumerate(seen) if what == "look"]
    assert len(looks) >= 4 and all(seen[index - 1] == "ask False" for index in looks), seen


async def test_the_backlog_counts_what_a_long_step_has_done(bench: Bench) -> None:
    work, gate = bench.gated("p", 1)
    ended = bench.submit(1, JobClass.PRE_INFER, work, expected_ns=30_000_000_000)
    await gate.reached()
    first_ns = bench.executor.load().backlog_ns
    while bench.executor.load().backlog_ns == first_ns:  # noqa: ASYNC110 - time itself is what is waited for
        await asyncio.sleep(0)
    assert 0 < bench.executor.load().backlog_ns < first_ns
    gate.let()
    await ended


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


async def test_a_promoted_pre_infer_is_not_set_aside_for_a_full_rank(bench: Bench) -> None:
    gate = threading.Event()
    lent = bench.submit(1, JobClass.PRE_INFER, bench.steps("p", 3, gate))
    bench.executor.promote(1, JobClass.JOINED, FAR_NS - 1)
    later = bench.submit(2, JobClass.FULL, bench.steps("f", 1))
    gate.set()
    await asyncio.gather(lent, later)
    assert bench.log == ["p0", "p1", "p2", "f0"]


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


async def test_a_full_rank_sets_a_pre_infer_aside_and_a_rank_the_full_rank(bench: Bench) -> None:
    pre, pre_gate = bench.gated("p", 2)
    full, full_gate = bench.gated("f", 2)
    first = bench.submit(1, JobClass.PRE_INFER, pre)
    await pre_gate.reached()
    second = bench.submit(2, JobClass.FULL, full)
    pre_gate.let()
    await full_gate.reached()
    third = bench.submit(3, JobClass.RANK, bench.steps("r", 2))
    full_gate.let(2)
    assert (await third).value == "r"
    assert (await second).value == "f"
    pre_gate.let()
    assert (await first).value == "p"
    assert [line for line in bench.log if "let go" not in line] == ["p0", "f0", "r0", "r1", "f1", "p1"]


async def test_a_rank_waits_for_one_step_and_says_how_long(bench: Bench) -> None:
    work, gate = bench.gated("p", 50)
    slow = bench.submit(1, JobClass.PRE_INFER, work)
    await gate.reached()
    fast, behind = (bench.submit(job_id, JobClass.RANK, bench.steps(f"r{job_id}", 1)) for job_id in (2, 3))
    gate.let(50)
    outcome = await fast
    assert bench.log[:2] == ["p0", "r20"]
    assert outcome.preempt_wait_ns == outcome.queued_ns > 0
    assert (await behind).preempt_wait_ns is None, "it waits for a rank"
    assert (await slow).preempt_wait_ns is None
    assert outcome.preempt_wait_ns <= (await slow).longest_step_ns + outcome.queued_ns
    assert [job.job_id for job, _ in bench.observed] == [2, 3, 1]


async def test_work_that_has_begun_is_let_go_on_the_devices_thread(bench: Bench) -> None:
    aside, gate = bench.gated("p", 9)
    blocker, blocker_gate = bench.gated("r", 1)
    ended = bench.submit(1, JobClass.PRE_INFER, aside)
    await gate.reached()
    running = bench.submit(2, JobClass.RANK, blocker)
    gate.let()
    await blocker_gate.reached()
    bench.executor.cancel(1)
    assert bench.executor.load().pre_infer_jobs == 0, "it is out of the queue at once"
    await asyncio.sleep(0)
    assert not ended.done(), "what it holds is not let go of yet"
    blocker_gate.let()
    assert (await ended).ending is Ending.CANCELLED
    assert "p let go on device" in bench.log and "p1" not in bench.log
    await running


async def test_work_set_aside_that_becomes_late_is_let_go_and_never_runs_on(bench: Bench) -> None:
    aside, gate = bench.gated("p", 9)
    blocker, blocker_gate = bench.gated("r", 2)
    deadline_ns = time.monotonic_ns() + 20_000_000
    ended = bench.submit(1, JobClass.PRE_INFER, aside, deadline_ns)
    await gate.reached()
    running = bench.submit(2, JobClass.RANK, blocker)
    gate.let()
    await blocker_gate.reached()
    await until_passed(deadline_ns)
    blocker_gate.let(2)
    assert (await ended).ending is Ending.LATE
    assert "p let go on device" in bench.log and "p1" not in bench.log
    await running


async def test_work_that_becomes_late_while_it_runs_ends_at_its_next_step(bench: Bench) -> None:
    work, gate = bench.gated("p", 9)
    deadline_ns = time.monotonic_ns() + 20_000_000
    ended = bench.submit(1, JobClass.PRE_INFER, work, deadline_ns)
    await gate.reached()
    await until_passed(deadline_ns)
    gate.let(9)
    assert (await ended).ending is Ending.LATE
    assert "p1" not in bench.log


async def test_late_work_is_told_and_is_no_backlog_while_the_device_is_busy(bench: Bench) -> None:
    blocker, gate = bench.gated("r", 1)
    running = bench.submit(1, JobClass.RANK, blocker, expected_ns=0)
    await gate.reached()
    deadline_ns = time.monotonic_ns() + 20_000_000
    bench.submit(2, JobClass.FULL, bench.steps("far", 1), expected_ns=5)
    late = bench.submit(3, JobClass.FULL, bench.steps("late", 1), deadline_ns, expected_ns=7)
    await until_passed(deadline_ns)
    assert bench.executor.load().backlog_ns == 5
    assert (await late).ending is Ending.LATE
    gate.let()
    await running


async def test_a_rank_that_overtakes_a_production_is_not_kept_by_what_it_lent(bench: Bench) -> None:
    work, gate = bench.gated("p", 3)
    lent = bench.submit(1, JobClass.PRE_INFER, work)
    await gate.reached()
    bench.executor.promote(1, JobClass.JOINED, FAR_NS - 1)
    bench.executor.demote(1)
    rank = bench.submit(2, JobClass.RANK, bench.steps("r", 1))
    gate.let(3)
    await asyncio.gather(lent, rank)
    assert bench.log[:3] == ["p0", "r0", "p1"]


async def test_a_job_set_aside_counts_what_is_left_of_it(bench: Bench) -> None:
    work, gate = bench.gated("p", 2)
    blocker, blocker_gate = bench.gated("r", 1)
    slow = bench.submit(1, JobClass.PRE_INFER, work, expected_ns=FAR_NS)
    await gate.reached()
    running = bench.submit(2, JobClass.RANK, blocker, expected_ns=0)
    gate.let()
    await blocker_gate.reached()
    left_ns = bench.executor.load().backlog_ns
    assert 0 < left_ns < FAR_NS
    blocker_gate.let()
    gate.let()
    await running
    assert (await slow).compute_ns >= FAR_NS - left_ns


async def until_passed(deadline_ns: int) -> None:
    """The executor reads the real clock, so a deadline has to be waited for."""
    await asyncio.sleep(max(0, deadline_ns - time.monotonic_ns()) / 1e9 + 0.001)
    assert time.monotonic_ns() >= deadline_ns


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
