"""What the device does next: rank before joined production, append, full rank and pre-infer.

Within a class the earliest deadline goes first. A job may say by when it is due, which is when its rank would be
within the ranking budget; its deadline, when nobody waits any more, is later. What cannot be in time any more is set
aside: it runs when nothing else is there to do. Else one job that is late makes the next one late, and a burst ends
only when the device is idle. When there is more than can be done for long, what was set aside ends with its deadline.
A job with little time between the two keeps its place.

Decides order, yielding and dropping; runs nothing. A job is waiting or running; its owner takes it, and then finishes
it or puts it back. Work that is late and may be dropped leaves the table wherever it stands in its queue: computing
it would only make others late. When the table is full, pre-infers are shed for ranks. What was dropped or shed is
handed out once, by the next `take` or `expire`.

A rank that waits for a job lends it a class just below its own, and its deadline (`promote`). The loan ends when the
rank takes it back (`demote`) or its deadline passes; the job then goes on as what it is. Below its own, since a rank
on psi takes a third of what a production does: when newcomers meet, those whose psi is ready should not wait behind
them. For the same reason an append of a few tokens goes before full ranks and long pre-infers.

A job that is put back has begun and holds its working memory. So that few do, a class goes
on with one that has begun once `begun_max` have, even before an earlier deadline.

Source: design, section 3 (ranker), invariants I3, I6.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace
from enum import IntEnum

ASIDE_ROOM_TIMES = 4
"""A job is set aside only when from when it is due to its deadline there is so many times what is left of it: else it
would be dropped where it could have been a little late."""
BEGUN_MAX = 4
"""One set aside by a full rank and one by a rank is the usual case; beyond that, deadlines cross."""


class JobClass(IntEnum):
    """Smaller is more urgent."""

    RANK = 0
    JOINED = 1
    """A production that a rank waits for."""
    APPEND = 2
    """A pre-infer of a few tokens to psi that is there."""
    FULL = 3
    PRE_INFER = 4


CLASSES = tuple(JobClass)
AHEAD = (JobClass.APPEND, JobClass.PRE_INFER)
"""Work ahead of a rank that is still to come: shed first."""


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of device work."""

    job_id: int
    job_class: JobClass
    deadline_ns: int
    expected_ns: int
    """Device time it is expected to take; of a job that was put back, what is left."""
    droppable: bool
    """May be dropped once its deadline has passed."""
    due_ns: int | None = None
    """By when it ought to end; None: by nothing but its deadline."""

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
    """Without what is set aside: that makes way for whatever comes, so that nobody waits for it."""
    aside_ns: int = 0


@dataclass(slots=True)
class _Place:
    """A job in the table."""

    own: Job
    """As submitted, with what is left of it."""
    job: Job
    """With what it was lent."""
    left_ns: int
    lent_until_ns: int | None = None
    is_begun: bool = False
    is_aside: bool = False
    """In the queue of those that cannot be in time any more."""
    sequence: int = 0
    """Of its last queueing: heap items of earlier ones are stale."""

    def lend(self, job_class: JobClass, deadline_ns: int, due_ns: int | None) -> None:
        own, self.is_aside = self.own, False
        self.lent_until_ns = deadline_ns
        self.job = replace(
            own,
            job_class=min(own.job_class, job_class),
            deadline_ns=min(own.deadline_ns, deadline_ns),
            due_ns=due_ns if own.due_ns is None or due_ns is None else min(own.due_ns, due_ns),
        )

    def take_back(self) -> None:
        self.lent_until_ns, self.job, self.is_aside = None, self.own, False

    def lapse(self, now_ns: int) -> None:
        """End a loan whose deadline has passed."""
        if self.lent_until_ns is not None and self.lent_until_ns <= now_ns:
            self.take_back()

    def is_late(self, now_ns: int) -> bool:
        """A job is not late while somebody whose deadline is to come waits for it."""
        return self.lent_until_ns is None and self.own.is_late(now_ns)

    def is_hopeless(self, now_ns: int) -> bool:
        """True when it is predicted to end after it is due, and its deadline leaves room to go behind others."""
        due_ns, left_ns = self.job.due_ns, self.left_ns
        if due_ns is None or now_ns + left_ns <= due_ns:
            return False
        return due_ns + ASIDE_ROOM_TIMES * left_ns <= self.job.deadline_ns

    @property
    def order(self) -> tuple[int, int]:
        return self.job.deadline_ns, self.sequence


class Schedule:
    """A bounded table of jobs, one heap per class, and one of the moments at which jobs become late."""

    def __init__(self, jobs_max: int, begun_max: int = BEGUN_MAX):
        assert jobs_max > 0 and begun_max > 0
        self._jobs_max = jobs_max
        self._begun_max = begun_max
        self._waiting: dict[int, _Place] = {}
        self._begun: dict[int, _Place] = {}
        """Those of the waiting that were put back."""
        self._running: dict[int, _Place] = {}
        self._heaps: list[list[tuple[int, int, int]]] = [[] for _ in CLASSES]
        self._aside: list[tuple[int, int, int]] = []
        self._lateness: list[tuple[int, int, int]] = []
        self._dropped: list[Job] = []
        self._sequence = 0
        self.spent_ns = dict.fromkeys(JobClass, 0)
        """Device time of finished jobs, by the class they ended in."""

    def submit(self, job: Job, now_ns: int) -> bool:
        """Queue a job. False: it is late already, or the table is full of work no less urgent.

        What is dropped is handed out by `expire` and `take`; an owner who never asks is refused
        once a table's worth of it has gathered.
        """
        assert job.job_id not in self._waiting and job.job_id not in self._running, f"job {job.job_id} twice"
        if job.is_late(now_ns) or len(self._dropped) >= self._jobs_max:
            return False
        if self._is_full():
            self._drop_late(now_ns)
        if self._is_full() and not self._shed_for(job):
            return False
        self._queue(_Place(job, job, job.expected_ns))
        return True

    def take(self, now_ns: int) -> tuple[Job | None, tuple[Job, ...]]:
        """The job to run now, and those dropped; the caller answers for the dropped ones."""
        dropped = self.expire(now_ns)
        self._sort_out(now_ns)
        for job_class in CLASSES:
            if (place := self._next(job_class, now_ns)) is not None:
                break
        else:
            place = self._next_aside()
        if place is None:
            return None, dropped
        self._running[place.job.job_id] = self._unqueue(place.job.job_id)
        return place.job, dropped

    def expire(self, now_ns: int) -> tuple[Job, ...]:
        """Drop what is late, anywhere in the queues; those dropped and shed since they were last asked for."""
        self._drop_late(now_ns)
        dropped, self._dropped = self._dropped, []
        return tuple(dropped)

    def promote(self, job_id: int, job_class: JobClass, deadline_ns: int, due_ns: int | None = None) -> bool:
        """Lend a job a more urgent class and an earlier deadline, and when it is due, in place of an earlier loan.

        Makes it less urgent than it is by itself only by being too late for when it is due.
        """
        if (place := self._of(job_id)) is None:
            return False
        place.lend(job_class, deadline_ns, due_ns)
        self._requeue(place)
        return True

    def demote(self, job_id: int) -> bool:
        """Take a loan back: who waited for the job does not any more."""
        if (place := self._of(job_id)) is None:
            return False
        place.take_back()
        self._requeue(place)
        return True

    def cancel(self, job_id: int) -> bool:
        """Take a waiting job out. False: it is running, shed or unknown; a running one its owner stops and finishes."""
        if job_id not in self._waiting:
            return False
        self._unqueue(job_id)
        return True

    def must_yield(self, running: Job, now_ns: int) -> bool:
        """True when a job of a more urgent class waits, or the running one is late. Cheap: asked at each step.

        Within a class only a job that is there on loan yields, to an earlier deadline: it may be
        long, and those it would hold up are what its class is for. One that cannot be in time any more yields to all
        that can.
        """
        place = self._running[running.job_id]
        place.lapse(now_ns)
        if place.is_late(now_ns):
            return True
        self._drop_late(now_ns)
        self._sort_out(now_ns)
        if place.is_hopeless(now_ns):
            return any(self._head(other) is not None for other in CLASSES)
        job_class = place.job.job_class
        if any(self._head(other) is not None for other in CLASSES[:job_class]):
            return True
        rival = self._head(job_class) if place.lent_until_ns is not None else None
        return rival is not None and rival.job.deadline_ns < place.job.deadline_ns

    def would_preempt(self, job: Job) -> bool:
        """True when a less urgent job runs and this one, once queued, would be the first to ask it to yield."""
        if not any(place.job.job_class > job.job_class for place in self._running.values()):
            return False
        return all(self._head(other) is None for other in CLASSES[: job.job_class + 1])

    def progress(self, job_id: int, left_ns: int) -> None:
        """A running job has so much left."""
        self._running[job_id].left_ns = left_ns

    def put_back(self, job: Job) -> None:
        """Queue a running job again, preempted or between chunks; `expected_ns` is what is left.

        What it was lent it keeps. Never refused: it already has its place.
        """
        place = self._running.pop(job.job_id)
        place.is_begun, place.left_ns = True, job.expected_ns
        place.own = replace(place.own, expected_ns=job.expected_ns)
        if place.lent_until_ns is None:
            place.job = place.own
        else:
            place.job = replace(place.job, expected_ns=job.expected_ns)
        self._queue(place)

    def finish(self, job_id: int, spent_ns: int) -> None:
        """A running job has ended."""
        place = self._running.pop(job_id)
        self.spent_ns[place.job.job_class] += spent_ns

    def is_begun(self, job_id: int) -> bool:
        """True for a waiting job that ran before."""
        return job_id in self._begun

    def load(self) -> Queues:
        """What waits and runs; of a running job, what was last said to be left. Late work counts until `expire`."""
        counts, left_ns = [0] * len(CLASSES), [0, 0]
        for place in (*self._waiting.values(), *self._running.values()):
            counts[place.job.job_class] += 1
            left_ns[place.is_aside] += place.left_ns
        productions = sum(counts[job_class] for job_class in (JobClass.JOINED, *AHEAD))
        return Queues(counts[JobClass.RANK], counts[JobClass.FULL], productions, *left_ns)

    def check_touched(self) -> None:
        """Assert the bounds: what needs no look at the queues."""
        assert len(self._waiting) + len(self._running) <= self._jobs_max
        assert max(len(self._dropped), len(self._lateness) - 64, len(self._aside) - 64) <= 2 * self._jobs_max

    def check(self) -> None:
        """Assert bounds and that the heaps hold exactly the waiting jobs."""
        self.check_touched()
        assert not self._waiting.keys() & self._running.keys()
        assert self._begun == {job_id: place for job_id, place in self._waiting.items() if place.is_begun}
        heaps = [*self._heaps, self._aside]
        queued = [item for heap in heaps for item in heap if not self._is_stale(item)]
        aside = {item[2] for item in self._aside if not self._is_stale(item)}
        assert aside == {job_id for job_id, place in self._waiting.items() if place.is_aside}
        assert sorted(item[2] for item in queued) == sorted(self._waiting)
        for job_class, heap in enumerate(self._heaps):
            assert len(heap) <= 2 * self._jobs_max + 64
            assert all(self._waiting[item[2]].job.job_class == job_class for item in heap if not self._is_stale(item))
        watched = {item[2] for item in self._lateness if not self._is_stale(item)}
        assert all(job_id in watched for job_id, place in self._waiting.items() if _turns_ns(place) is not None)

    def _of(self, job_id: int) -> _Place | None:
        return self._waiting.get(job_id) or self._running.get(job_id)

    def _is_full(self) -> bool:
        return len(self._waiting) + len(self._running) >= self._jobs_max

    def _shed_for(self, job: Job) -> bool:
        """Make room for a rank by dropping the waiting pre-infer whose deadline is last, if possible one not begun."""
        if job.job_class in AHEAD:
            return False
        victims = [place for place in self._waiting.values() if place.job.job_class in AHEAD and place.job.droppable]
        if not victims:
            return False
        victim = max(victims, key=lambda place: (not place.is_begun, place.job.deadline_ns, place.job.job_id))
        self._dropped.append(self._unqueue(victim.job.job_id).job)
        return True

    def _drop_late(self, now_ns: int) -> None:
        """Take out what is late; a job whose loan has ended goes on by itself."""
        while self._lateness and (self._lateness[0][0] <= now_ns or self._is_stale(self._lateness[0])):
            item = heapq.heappop(self._lateness)
            if self._is_stale(item):
                continue
            place = self._unqueue(item[2])
            place.lapse(now_ns)
            if place.is_late(now_ns):
                self._dropped.append(place.job)
            else:
                self._queue(place)

    def _next(self, job_class: JobClass, now_ns: int) -> _Place | None:
        """The earliest deadline of a class; of those begun when enough have. A rank waits for no other's memory."""
        head = self._head(job_class)
        is_waited_for = job_class <= JobClass.JOINED
        if head is None or head.is_begun or is_waited_for or len(self._begun) < self._begun_max:
            return head
        begun = [
            place
            for place in self._begun.values()
            if place.job.job_class == job_class and not place.is_aside and not place.is_hopeless(now_ns)
        ]
        return min(begun, key=lambda place: place.order) if begun else head

    def _next_aside(self) -> _Place | None:
        """Of those too late: one that has begun and holds its memory, else the earliest deadline."""
        begun = [place for place in self._begun.values() if place.is_aside]
        return min(begun, key=lambda place: place.order) if begun else self._top(self._aside)

    def _sort_out(self, now_ns: int) -> None:
        """Set aside what heads its class and cannot be in time any more."""
        for job_class in CLASSES:
            while (place := self._head(job_class)) is not None and place.is_hopeless(now_ns):
                self._queue(self._unqueue(place.job.job_id), is_aside=True)

    def _queue(self, place: _Place, *, is_aside: bool = False) -> None:
        self._sequence += 1
        place.sequence, place.is_aside = self._sequence, is_aside
        job_id = place.job.job_id
        self._waiting[job_id] = place
        if place.is_begun:
            self._begun[job_id] = place
        heap = self._aside if is_aside else self._heaps[place.job.job_class]
        self._push(heap, (place.job.deadline_ns, self._sequence, job_id))
        turns_ns = _turns_ns(place)
        if turns_ns is not None:
            self._push(self._lateness, (turns_ns, self._sequence, job_id))

    def _push(self, heap: list[tuple[int, int, int]], item: tuple[int, int, int]) -> None:
        heapq.heappush(heap, item)
        if len(heap) > 2 * self._jobs_max:
            heap[:] = [item for item in heap if not self._is_stale(item)]
            heapq.heapify(heap)

    def _unqueue(self, job_id: int) -> _Place:
        """The heap items become stale and go when they reach the head."""
        self._begun.pop(job_id, None)
        return self._waiting.pop(job_id)

    def _requeue(self, place: _Place) -> None:
        if place.job.job_id in self._waiting:
            self._queue(self._unqueue(place.job.job_id))

    def _head(self, job_class: JobClass) -> _Place | None:
        return self._top(self._heaps[job_class])

    def _top(self, heap: list[tuple[int, int, int]]) -> _Place | None:
        while heap and self._is_stale(heap[0]):
            heapq.heappop(heap)
        return self._waiting[heap[0][2]] if heap else None

    def _is_stale(self, item: tuple[int, int, int]) -> bool:
        place = self._waiting.get(item[2])
        return place is None or place.sequence != item[1]


def _turns_ns(place: _Place) -> int | None:
    """When a waiting job's loan ends or it becomes late; None for never."""
    if place.lent_until_ns is not None:
        return place.lent_until_ns
    return place.own.deadline_ns if place.own.droppable else None
