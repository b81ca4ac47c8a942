"""What the device does next: rank before full rank before pre-infer, earliest deadline first.

Decides order, yielding and dropping; runs nothing. A job is waiting or running; its owner
takes it, and then finishes it or puts it back. Work that is late and may be dropped is
dropped when it comes to the head of its class: computing it would only make others late.
When the table is full, pre-infers are shed for ranks; what was shed comes out with the
next `take`, beside what was late.

Source: design, section 3 (ranker), invariants I3, I6.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace
from enum import IntEnum


class JobClass(IntEnum):
    """Smaller is more urgent."""

    RANK = 0
    FULL = 1
    PRE_INFER = 2


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of device work."""

    job_id: int
    job_class: JobClass
    deadline_ns: int
    expected_ns: int
    """Device time it is expected to take."""
    droppable: bool
    """May be dropped once its deadline has passed."""

    def is_late(self, now_ns: int) -> bool:
        """True when it should be dropped instead of run."""
        return self.droppable and self.deadline_ns <= now_ns


@dataclass(frozen=True, slots=True)
class Queues:
    """Jobs that wait or run, by class, and the device time they are expected to take."""

    rank_jobs: int
    full_jobs: int
    pre_infer_jobs: int
    backlog_ns: int


class Schedule:
    """A bounded table of jobs and one heap per class."""

    def __init__(self, jobs_max: int):
        assert jobs_max > 0
        self._jobs_max = jobs_max
        self._waiting: dict[int, tuple[Job, int]] = {}
        self._running: dict[int, Job] = {}
        self._heaps: dict[JobClass, list[tuple[int, int, int]]] = {job_class: [] for job_class in JobClass}
        self._shed: list[Job] = []
        self._sequence = 0
        self.spent_ns = dict.fromkeys(JobClass, 0)
        """Device time of finished jobs, by the class they ended in."""

    def submit(self, job: Job, now_ns: int) -> bool:
        """Queue a job. False: it is late already, or the table is full of work no less urgent."""
        assert job.job_id not in self._waiting and job.job_id not in self._running, f"job {job.job_id} twice"
        if job.is_late(now_ns) or (self._is_full() and not self._shed_for(job)):
            return False
        self._queue(job)
        return True

    def take(self, now_ns: int) -> tuple[Job | None, tuple[Job, ...]]:
        """The job to run now, and those dropped; the caller answers for the dropped ones."""
        dropped, self._shed = self._shed, []
        for job_class in JobClass:
            while (head := self._head(job_class)) is not None and head.is_late(now_ns):
                dropped.append(self._unqueue(head.job_id))
        for job_class in JobClass:
            head = self._head(job_class)
            if head is not None:
                self._running[head.job_id] = self._unqueue(head.job_id)
                return head, tuple(dropped)
        return None, tuple(dropped)

    def promote(self, job_id: int, job_class: JobClass, deadline_ns: int) -> bool:
        """Lend a job a more urgent class and an earlier deadline; never makes it less urgent."""
        if job_id in self._waiting:
            self._queue(_promoted(self._unqueue(job_id), job_class, deadline_ns))
        elif job_id in self._running:
            self._running[job_id] = _promoted(self._running[job_id], job_class, deadline_ns)
        else:
            return False
        return True

    def cancel(self, job_id: int) -> bool:
        """Take a waiting job out. False: it is running, shed or unknown; a running one its owner stops and finishes."""
        if job_id not in self._waiting:
            return False
        self._unqueue(job_id)
        return True

    def must_yield(self, running: Job, now_ns: int) -> bool:
        """True when a job of a more urgent class waits. Cheap: asked between layers.

        Also when it is late: the `take` that follows drops it, and sees who stands behind it.
        """
        current = self._running.get(running.job_id, running)
        return any(self._head(job_class) is not None for job_class in JobClass if job_class < current.job_class)

    def put_back(self, job: Job) -> None:
        """Queue a running job again, preempted or between chunks; `expected_ns` may be what is left.

        What it was lent while it ran it keeps. Never refused: it already has its place.
        """
        current = self._running.pop(job.job_id)
        self._queue(_promoted(job, current.job_class, current.deadline_ns))

    def finish(self, job_id: int, spent_ns: int) -> None:
        """A running job has ended."""
        job = self._running.pop(job_id)
        self.spent_ns[job.job_class] += spent_ns

    def load(self) -> Queues:
        """What waits and runs. A running job counts in full: its progress is not known here."""
        counts = dict.fromkeys(JobClass, 0)
        backlog_ns = 0
        for job in self._all():
            counts[job.job_class] += 1
            backlog_ns += job.expected_ns
        return Queues(counts[JobClass.RANK], counts[JobClass.FULL], counts[JobClass.PRE_INFER], backlog_ns)

    def check(self) -> None:
        """Assert bounds and that the heaps hold exactly the waiting jobs."""
        assert len(self._waiting) + len(self._running) <= self._jobs_max
        assert len(self._shed) <= self._jobs_max
        assert not self._waiting.keys() & self._running.keys()
        queued = [item for heap in self._heaps.values() for item in heap if not self._is_stale(item)]
        assert sorted(item[2] for item in queued) == sorted(self._waiting)
        for job_class, heap in self._heaps.items():
            assert len(heap) <= 2 * self._jobs_max + 64
            assert all(self._waiting[item[2]][0].job_class == job_class for item in heap if not self._is_stale(item))

    def _all(self) -> list[Job]:
        return [*(job for job, _ in self._waiting.values()), *self._running.values()]

    def _is_full(self) -> bool:
        return len(self._waiting) + len(self._running) >= self._jobs_max

    def _shed_for(self, job: Job) -> bool:
        """Make room for a rank by dropping the waiting pre-infer whose deadline is last."""
        if job.job_class == JobClass.PRE_INFER or len(self._shed) >= self._jobs_max:
            return False
        victims = [w for w, _ in self._waiting.values() if w.job_class == JobClass.PRE_INFER and w.droppable]
        if not victims:
            return False
        victim = max(victims, key=lambda waiting: (waiting.deadline_ns, waiting.job_id))
        self._shed.append(self._unqueue(victim.job_id))
        return True

    def _queue(self, job: Job) -> None:
        self._sequence += 1
        self._waiting[job.job_id] = (job, self._sequence)
        heap = self._heaps[job.job_class]
        heapq.heappush(heap, (job.deadline_ns, self._sequence, job.job_id))
        if len(heap) > 2 * self._jobs_max:
            heap[:] = [item for item in heap if not self._is_stale(item)]
            heapq.heapify(heap)

    def _unqueue(self, job_id: int) -> Job:
        """The heap item becomes stale and goes when it reaches the head."""
        return self._waiting.pop(job_id)[0]

    def _head(self, job_class: JobClass) -> Job | None:
        heap = self._heaps[job_class]
        while heap and self._is_stale(heap[0]):
            heapq.heappop(heap)
        return self._waiting[heap[0][2]][0] if heap else None

    def _is_stale(self, item: tuple[int, int, int]) -> bool:
        waiting = self._waiting.get(item[2])
        return waiting is None or waiting[1] != item[1]


def _promoted(job: Job, job_class: JobClass, deadline_ns: int) -> Job:
    return replace(job, job_class=min(job.job_class, job_class), deadline_ns=min(job.deadline_ns, deadline_ns))
