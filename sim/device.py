"""One device, driven by the production schedule as the executor drives it: one job at a time, yielding at layers.

The executor asks at each layer whether the job must yield. Between two changes of the queues the answer stays the
same, so here it is asked when something has changed, and the job yields at the end of the layer it is in: the same
moments, with a few events a job instead of one a layer. Times are the cost model's, with noise.

Source: design, section 3 (ranker); services/ranker/adapters/executor.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from math import exp
from random import Random
from typing import Any

from services.ranker.core.schedule import Job, JobClass, Queues, Schedule
from sim.nodes.process import Process

P99_SIGMAS = 2.576
"""A cost model's error is the P99 of its noise."""


@dataclass(slots=True, eq=False)
class Task:
    """A job with how long it really takes."""

    job: Job
    ends_ns: list[int]
    """Device time from its start to the end of each chunk."""
    on_end: Callable[[Any, bool, int, int], None]
    """Told the owner, whether the job was done, its device time, and its complete chunks."""
    owner: Any
    on_chunk: Callable[[Any, int], None] | None = None
    """Told the owner and the number of chunks complete, short of the last."""
    done_ns: int = 0
    chunks: int = 0
    has_begun: bool = False
    is_cancelled: bool = False
    layer_ns: int = field(init=False)

    def __post_init__(self) -> None:
        self.layer_ns = 1

    @property
    def left_ns(self) -> int:
        """What is left of the expected time, as far as it was right."""
        return max(0, self.job.expected_ns - self.done_ns)


class Device:
    """Runs tasks in the order of a schedule."""

    def __init__(self, process: Process, random: Random, *, jobs_max: int, layers: int, loop_ns: int) -> None:
        self._process = process
        self._random = random
        self._layers = layers
        self._loop_ns = loop_ns
        self._tasks: dict[int, Task] = {}
        self._running: Task | None = None
        self._resumed_ns = 0
        self._turn = 0
        """Events of earlier turns mean nothing any more."""
        self._stalled_ns = 0
        self.schedule = Schedule(jobs_max)
        self.slowness = 1.0
        self.busy_ns = 0

    def noise(self, relative_error: float) -> float:
        """How many times as long as predicted something takes."""
        return self.slowness * exp(self._random.gauss(0.0, relative_error / P99_SIGMAS))

    def submit(self, task: Task) -> bool:
        """Queue a task; False when the schedule refuses it, and then nothing is told."""
        now_ns = self._process.clock_ns()
        is_queued = self.schedule.submit(task.job, now_ns)
        if is_queued:
            task.layer_ns = max(1, task.ends_ns[-1] // (len(task.ends_ns) * self._layers))
            self._tasks[task.job.job_id] = task
        self._let_go(self.schedule.expire(now_ns))
        self._look(now_ns)
        return is_queued

    def stall(self, by_ns: int) -> None:
        """Somebody else takes the processor: what runs now ends so much later."""
        if self._running is not None:
            self._stalled_ns += by_ns

    def promote(self, job_id: int, deadline_ns: int, due_ns: int | None) -> None:
        """A rank waits for this job."""
        if self.schedule.promote(job_id, JobClass.JOINED, deadline_ns, due_ns):
            self._look(self._process.clock_ns())

    def demote(self, job_id: int) -> None:
        """Nobody waits any more."""
        if self.schedule.demote(job_id):
            self._look(self._process.clock_ns())

    def cancel(self, job_id: int) -> None:
        """End a job at its next yield, or before it starts."""
        task = self._tasks.get(job_id)
        if task is None:
            return
        task.is_cancelled = True
        if self.schedule.cancel(job_id):
            self._end(task, False)
        else:
            self._yield_soon(self._process.clock_ns())

    def load(self) -> Queues:
        """Queues and backlog at this moment."""
        now_ns = self._process.clock_ns()
        self._let_go(self.schedule.expire(now_ns))
        task = self._running
        if task is not None:
            elapsed_ns = task.done_ns + now_ns - self._resumed_ns
            self.schedule.progress(task.job.job_id, max(0, task.job.expected_ns - elapsed_ns))
        return self.schedule.load()

    @property
    def is_running(self) -> bool:
        """Something computes."""
        return self._running is not None

    @property
    def is_idle(self) -> bool:
        """Nothing waits or runs."""
        return not self._tasks

    def _look(self, now_ns: int) -> None:
        """The queues changed."""
        if self._running is None:
            self._next(now_ns)
        elif self.schedule.must_yield(self._running.job, now_ns):
            self._yield_soon(now_ns)

    def _next(self, now_ns: int) -> None:
        job, dropped = self.schedule.take(now_ns)
        self._let_go(dropped)
        if job is None:
            return
        task = self._running = self._tasks[job.job_id]
        self._stalled_ns = 0
        task.has_begun = True
        self._resumed_ns = now_ns
        self._plan(now_ns)

    def _plan(self, now_ns: int) -> None:
        """Look at the running job at the end of its chunk, or when it becomes late."""
        task = self._running
        assert task is not None
        at_ns = self._resumed_ns + task.ends_ns[task.chunks] - task.done_ns
        if task.job.droppable and task.job.deadline_ns < at_ns:
            at_ns = min(at_ns, self._boundary_ns(task, max(now_ns, task.job.deadline_ns)))
        self._turn += 1
        self._process.at(max(at_ns, now_ns), self._reach, self._turn)

    def _yield_soon(self, now_ns: int) -> None:
        task = self._running
        if task is None:
            return
        end_ns = self._resumed_ns + task.ends_ns[task.chunks] - task.done_ns
        self._turn += 1
        self._process.at(min(end_ns, self._boundary_ns(task, now_ns)), self._reach, self._turn)

    def _boundary_ns(self, task: Task, now_ns: int) -> int:
        """End of the layer that runs now, or at some later time."""
        done_ns = task.done_ns + now_ns - self._resumed_ns
        layers = done_ns // task.layer_ns + 1
        return self._resumed_ns + layers * task.layer_ns - task.done_ns

    def _reach(self, turn: int) -> None:
        """The end of a layer."""
        task = self._running
        if turn != self._turn or task is None:
            return
        now_ns = self._process.clock_ns()
        if self._stalled_ns:
            self._resumed_ns += self._stalled_ns
            self._process.at(now_ns + self._stalled_ns, self._reach, turn)
            self._stalled_ns = 0
            return
        # A process that was stopped did not compute meanwhile.
        elapsed_ns = min(now_ns - self._resumed_ns, task.ends_ns[task.chunks] - task.done_ns)
        task.done_ns += elapsed_ns
        self.busy_ns += elapsed_ns
        self._resumed_ns = now_ns
        if task.done_ns >= task.ends_ns[task.chunks]:
            task.chunks += 1
            if task.chunks == len(task.ends_ns):
                self._settle(task, True, now_ns)
                return
            if task.on_chunk is not None:
                self._process.after(self._loop_ns, task.on_chunk, task.owner, task.chunks)
        if task.is_cancelled:
            self._settle(task, False, now_ns)
            return
        self.schedule.progress(task.job.job_id, task.left_ns)
        if self.schedule.must_yield(task.job, now_ns):
            self.schedule.put_back(replace(task.job, expected_ns=task.left_ns))
            self._running = None
            self._let_go(self.schedule.expire(now_ns))
            self._next(now_ns)
        else:
            self._let_go(self.schedule.expire(now_ns))
            self._plan(now_ns)

    def _settle(self, task: Task, is_done: bool, now_ns: int) -> None:
        self.schedule.finish(task.job.job_id, task.done_ns)
        self._running = None
        self._end(task, is_done)
        self._next(now_ns)

    def _let_go(self, dropped: Iterable[Job]) -> None:
        for job in dropped:
            self._end(self._tasks[job.job_id], False)

    def _end(self, task: Task, is_done: bool) -> None:
        if self._tasks.pop(task.job.job_id, None) is not None:
            self._process.after(self._loop_ns, task.on_end, task.owner, is_done, task.done_ns, task.chunks)
