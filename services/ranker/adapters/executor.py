"""One thread that owns the device and does what the schedule says.

Work is a generator that yields where it may be set aside: between the layers of a chunk.
At each yield the thread asks the schedule whether something more urgent waits; if so, the
generator is kept and taken up again later. All callbacks run on the event loop.

Source: design, section 3 (ranker).
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

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


OnEnd = Callable[[Outcome], None]
Work = Generator[None, None, Any]


@dataclass(slots=True)
class _Task:
    job: Job
    work: Work
    on_end: OnEnd
    submitted_ns: int
    started_ns: int = 0
    compute_ns: int = 0
    is_cancelled: bool = field(default=False)


class Executor:
    """Runs device work in the order of a Schedule."""

    def __init__(
        self,
        schedule: Schedule,
        loop: asyncio.AbstractEventLoop,
        settings: Callable[[], AbstractContextManager[None]] = nullcontext,
        step_ended: Callable[[bool], None] = lambda is_last: None,
    ):
        """Start the thread.

        Args:
            schedule: what decides.
            loop: where callbacks run.
            settings: the thread works within it.
            step_ended: called on the thread after each step, true after the last of a job. It
                waits for a device that computes by itself, so that an ending means that
                the device has ended too.
        """
        self._schedule = schedule
        self._loop = loop
        self._tasks: dict[int, _Task] = {}
        self._wake = threading.Condition()
        self._is_closed = False
        self._settings = settings
        self._step_ended = step_ended
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self._thread.start()

    def submit(self, job: Job, work: Work, on_end: OnEnd) -> bool:
        """Queue a job; False when the queue is full, and then `on_end` is never called."""
        with self._wake:
            now_ns = time.monotonic_ns()
            if self._is_closed or not self._schedule.submit(job, now_ns):
                return False
            self._tasks[job.job_id] = _Task(job, work, on_end, now_ns)
            self._wake.notify()
        return True

    def promote(self, job_id: int, job_class: JobClass, deadline_ns: int) -> None:
        """Lend a job a more urgent class and deadline."""
        with self._wake:
            self._schedule.promote(job_id, job_class, deadline_ns)

    def cancel(self, job_id: int) -> None:
        """End a job at its next yield, or before it starts; `on_end` says CANCELLED."""
        with self._wake:
            task = self._tasks.get(job_id)
            if task is None:
                return
            task.is_cancelled = True
            if self._schedule.cancel(job_id):
                self._end(task, Ending.CANCELLED, None)

    def load(self) -> Queues:
        """Queues and backlog at this moment."""
        with self._wake:
            return self._schedule.load()

    def close(self) -> None:
        """Stop after the present step; jobs left over end as CANCELLED."""
        with self._wake:
            self._is_closed = True
            self._wake.notify()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        with self._settings():
            while (task := self._take()) is not None:
                self._work_on(task)

    def _take(self) -> _Task | None:
        with self._wake:
            while True:
                if self._is_closed:
                    for task in list(self._tasks.values()):
                        self._end(task, Ending.CANCELLED, None)
                    return None
                now_ns = time.monotonic_ns()
                job, late = self._schedule.take(now_ns)
                is_any_queued = False
                for dropped in late:
                    is_any_queued |= self._drop(self._tasks[dropped.job_id], now_ns)
                if job is not None:
                    return self._tasks[job.job_id]
                if not is_any_queued:
                    self._wake.wait()

    def _drop(self, task: _Task, now_ns: int) -> bool:
        """End what the schedule dropped. True: queued again instead, since only a lent deadline has passed."""
        if not task.is_cancelled and self._schedule.submit(task.job, now_ns):
            return True
        self._end(task, Ending.LATE, None)
        return False

    def _work_on(self, task: _Task) -> None:
        if not task.started_ns:
            task.started_ns = time.monotonic_ns()
        while True:
            step_ns = time.monotonic_ns()
            try:
                is_done, value = self._step(task.work)
            except Exception as error:
                self._settle(task, step_ns, Ending.FAILED, error)
                return
            if is_done:
                self._settle(task, step_ns, Ending.DONE, value)
                return
            now_ns = time.monotonic_ns()
            task.compute_ns += now_ns - step_ns
            with self._wake:
                if task.is_cancelled or self._is_closed:
                    self._schedule.finish(task.job.job_id, task.compute_ns)
                    self._end(task, Ending.CANCELLED, None)
                    return
                if self._schedule.must_yield(task.job, now_ns):
                    self._schedule.put_back(task.job)
                    return

    def _step(self, work: Work) -> tuple[bool, Any]:
        """Do one step: whether it was the last, and then the work's value."""
        try:
            next(work)
        except StopIteration as stop:
            self._step_ended(True)
            return True, stop.value
        self._step_ended(False)
        return False, None

    def _settle(self, task: _Task, step_ns: int, ending: Ending, value: Any) -> None:
        task.compute_ns += time.monotonic_ns() - step_ns
        with self._wake:
            self._schedule.finish(task.job.job_id, task.compute_ns)
            self._end(task, ending, value)

    def _end(self, task: _Task, ending: Ending, value: Any) -> None:
        self._tasks.pop(task.job.job_id, None)
        if ending is not Ending.DONE:
            try:
                task.work.close()
            except Exception:
                # A model's own clean-up; the device goes on with the others.
                LOG.exception("device work failed when it was told to end")
        queued_ns = max(0, (task.started_ns or time.monotonic_ns()) - task.submitted_ns)
        outcome = Outcome(ending, value, queued_ns, task.compute_ns)
        try:
            self._loop.call_soon_threadsafe(task.on_end, outcome)
        except RuntimeError:
            # The loop is gone: the process is on its way out and nobody waits any more.
            return
