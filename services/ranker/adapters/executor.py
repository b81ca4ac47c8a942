"""One thread that owns the device and does what the schedule says.

Work is a generator that yields where it may be set aside: after a slice of a layer. At each
yield the thread asks the schedule whether something more urgent waits; if so, the generator
is kept and taken up again later. A model that can be asked to yield is, whenever the schedule changes; so its
slices may be long, and yet nobody waits for the end of one. A generator that has begun is advanced and closed on this
thread only, since what it lets go of is the device's. All callbacks run on the event loop,
which never waits for more than the lock around the schedule.

Source: design, section 3 (ranker).
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from relaygr.runtime.logs import next_step
from services.ranker.core.schedule import Job, JobClass, Queues, Schedule

LOG = logging.getLogger(__name__)


class Ending(Enum):
    """How a job ended."""

    DONE = "done"
    FAILED = "failed"
    LATE = "late"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a job."""

    ending: Ending
    value: Any
    """The generator's return value when done, the exception when failed."""
    queued_ns: int
    """From submission to the first step."""
    compute_ns: int
    """On the device, without the time set aside."""
    longest_step_ns: int = 0
    """The longest that nothing could go before it."""
    preempt_wait_ns: int | None = None
    """From submission to the first step, of a job that came while a less urgent one had the device and
    was the first to ask it to yield; None for others."""


OnEnd = Callable[[Outcome], None]
Work = Generator[None, None, Any]


@dataclass(slots=True)
class _Task:
    job: Job
    work: Work
    on_end: OnEnd
    submitted_ns: int
    is_preempting: bool
    started_ns: int = 0
    compute_ns: int = 0
    longest_step_ns: int = 0
    step_begun_ns: int = 0
    """Of the step that runs; 0 between steps."""
    is_cancelled: bool = False

    @property
    def left_ns(self) -> int:
        """What is left of the expected time, as far as it was right."""
        return max(0, self.job.expected_ns - self.compute_ns)

    def left_at(self, now_ns: int) -> int:
        """The same, in the middle of a step; from any thread."""
        begun_ns = self.step_begun_ns
        return max(0, self.left_ns - (now_ns - begun_ns if begun_ns else 0))

    def step(self, step_ended: Callable[[bool], None]) -> bool:
        """Advance to the next yield; True there, StopIteration with the value at the end."""
        begun_ns = self.step_begun_ns = time.monotonic_ns()
        self.started_ns = self.started_ns or begun_ns
        try:
            next(self.work)
            step_ended(False)
        except StopIteration:
            step_ended(True)
            raise
        finally:
            elapsed_ns = time.monotonic_ns() - begun_ns
            self.step_begun_ns = 0
            self.compute_ns += elapsed_ns
            self.longest_step_ns = max(self.longest_step_ns, elapsed_ns)
        return True

    def outcome(self, ending: Ending, value: Any) -> Outcome:
        queued_ns = max(0, (self.started_ns or time.monotonic_ns()) - self.submitted_ns)
        preempt_wait_ns = queued_ns if self.is_preempting and self.started_ns else None
        return Outcome(ending, value, queued_ns, self.compute_ns, self.longest_step_ns, preempt_wait_ns)


class Executor:
    """Runs device work in the order of a Schedule."""

    def __init__(
        self,
        schedule: Schedule,
        loop: asyncio.AbstractEventLoop,
        settings: Callable[[], AbstractContextManager[None]] = nullcontext,
        observe: Callable[[Job, Outcome], None] = lambda job, outcome: None,
        step_ended: Callable[[bool], None] = lambda is_last: None,
        ask_to_yield: Callable[[bool], None] = lambda is_asking: None,
    ):
        """Start the thread.

        Args:
            schedule: what decides.
            loop: where callbacks run.
            settings: the thread works within it.
            observe: hears of each job that has begun, on the loop.
            step_ended: called on the thread after each step, true after the last of a job. It
                waits for a device that computes by itself, so that an ending means that
                the device has ended too.
            ask_to_yield: called from any thread; with True, the step that runs or begins next should yield soon,
                until it is called with False.
        """
        self._schedule = schedule
        self._loop = loop
        self._tasks: dict[int, _Task] = {}
        self._discarded: list[tuple[_Task, Ending]] = []
        """Out of the schedule but begun: the thread closes them."""
        self._wake = threading.Condition()
        self._is_closed = False
        self._settings = settings
        self._observe = observe
        self._step_ended = step_ended
        self._ask_to_yield = ask_to_yield
        self._current: _Task | None = None
        """What has the device, while the schedule says that it runs."""
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self._thread.start()

    def submit(self, job: Job, work: Work, on_end: OnEnd) -> bool:
        """Queue a job; False when the queue is full, and then `on_end` is never called."""
        with self._wake:
            now_ns = time.monotonic_ns()
            if self._is_closed:
                return False
            is_preempting = self._schedule.would_preempt(job)
            is_queued = self._schedule.submit(job, now_ns)
            self._let_go(self._schedule.expire(now_ns))
            if not is_queued:
                return False
            self._tasks[job.job_id] = _Task(job, work, on_end, now_ns, is_preempting)
            self._ask()
        return True

    def promote(self, job_id: int, job_class: JobClass, deadline_ns: int, due_ns: int | None = None) -> None:
        """Lend a job a more urgent class, a deadline, and when it is due, in place of an earlier loan."""
        with self._wake:
            self._schedule.promote(job_id, job_class, deadline_ns, due_ns)
            self._ask()

    def demote(self, job_id: int) -> None:
        """Take back what a job was lent."""
        with self._wake:
            self._schedule.demote(job_id)
            self._ask()

    def cancel(self, job_id: int) -> None:
        """End a job at its next yield, or before it starts; `on_end` says CANCELLED."""
        with self._wake:
            task = self._tasks.get(job_id)
            if task is None:
                return
            task.is_cancelled = True
            self._ask()
            if self._schedule.cancel(job_id):
                self._discard(task, Ending.CANCELLED)

    def load(self) -> Queues:
        """Queues and backlog at this moment, without what is late."""
        with self._wake:
            now_ns = time.monotonic_ns()
            self._let_go(self._schedule.expire(now_ns))
            if self._current is not None:
                self._schedule.progress(self._current.job.job_id, self._current.left_at(now_ns))
            queues = self._schedule.load()
        return queues

    def close(self) -> None:
        """Stop after the present step; jobs left over end as CANCELLED."""
        with self._wake:
            self._is_closed = True
            self._ask()
        self._thread.join(timeout=5)

    def _ask(self) -> None:
        """The schedule has changed: wake the thread, or have the running step yield; with the lock held.

        Asked for under the lock and taken back under it before the schedule is looked at, so none is lost.
        """
        self._ask_to_yield(True)
        self._wake.notify()

    def _let_go(self, dropped: Iterable[Job]) -> None:
        """End what the schedule has dropped or shed."""
        for job in dropped:
            task = self._tasks[job.job_id]
            self._discard(task, Ending.CANCELLED if task.is_cancelled else Ending.LATE)

    def _discard(self, task: _Task, ending: Ending) -> None:
        """End a job that is out of the schedule: at once, or by the thread when it has begun."""
        if task.started_ns:
            self._discarded.append((task, ending))
            self._wake.notify()
        else:
            self._end(task, ending, None)

    def _run(self) -> None:
        with self._settings():
            while (task := self._take()) is not None:
                self._work_on(task)
            for task in list(self._tasks.values()):
                self._end(task, Ending.CANCELLED, None)

    def _take(self) -> _Task | None:
        """The next task, with the lock let go; None when closed."""
        while True:
            self._close_discarded()
            with self._wake:
                if self._is_closed:
                    return None
                self._ask_to_yield(False)
                job, dropped = self._schedule.take(time.monotonic_ns())
                self._let_go(dropped)
                if job is not None:
                    self._current = self._tasks[job.job_id]
                    return self._current
                if not self._discarded:
                    self._wake.wait()

    def _work_on(self, task: _Task) -> None:
        try:
            while task.step(self._step_ended):
                if self._is_over(task):
                    return
                if self._discarded:
                    self._close_discarded()
        except StopIteration as stop:
            self._settle(task, Ending.DONE, stop.value)
        except Exception as error:
            self._settle(task, Ending.FAILED, error)

    def _is_over(self, task: _Task) -> bool:
        """At a yield: True when the task has ended or was put back."""
        job_id = task.job.job_id
        with self._wake:
            self._ask_to_yield(False)
            if not task.is_cancelled and not self._is_closed:
                now_ns = time.monotonic_ns()
                self._schedule.progress(job_id, task.left_ns)
                must_yield = self._schedule.must_yield(task.job, now_ns)
                if must_yield:
                    self._current = None
                    self._schedule.put_back(replace(task.job, expected_ns=task.left_ns))
                self._let_go(self._schedule.expire(now_ns))
                return must_yield
        self._settle(task, Ending.CANCELLED, None)
        return True

    def _settle(self, task: _Task, ending: Ending, value: Any) -> None:
        with self._wake:
            self._current = None
            self._schedule.finish(task.job.job_id, task.compute_ns)
        self._end(task, ending, value)

    def _close_discarded(self) -> None:
        with self._wake:
            discarded, self._discarded = self._discarded, []
        for task, ending in discarded:
            self._end(task, ending, None)

    def _end(self, task: _Task, ending: Ending, value: Any) -> None:
        """Close the work, then tell; once. On the device thread, or before the work has begun."""
        if self._tasks.pop(task.job.job_id, None) is None:
            return
        if ending is not Ending.DONE:
            try:
                task.work.close()
            except Exception:
                # A model's own clean-up; the device goes on with the others.
                step = next_step("report it with the traceback; the job counts as ended")
                LOG.exception("device work failed when it was told to end", extra=step)
        try:
            self._loop.call_soon_threadsafe(self._tell, task, task.outcome(ending, value))
        except RuntimeError:
            # The loop is gone: the process is on its way out and nobody waits any more.
            return

    def _tell(self, task: _Task, outcome: Outcome) -> None:
        try:
            task.on_end(outcome)
        finally:
            if task.started_ns:
                self._observe(task.job, outcome)
