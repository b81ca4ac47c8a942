"""The device's order against a model that sorts everything each time."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.ranker.core.schedule import AHEAD, ASIDE_ROOM_TIMES, Job, JobClass, Queues, Schedule

JOBS_MAX = 6
BEGUN_MAX = 2
classes = st.sampled_from(JobClass)
spans_ns = st.integers(0, 40)
dues_ns = st.none() | st.integers(0, 30)


@dataclass
class Known:
    """A job as its owner and its lenders see it."""

    own: Job
    lent: tuple[JobClass, int, int | None] | None = None
    is_begun: bool = False

    @property
    def job(self) -> Job:
        """With what it is lent."""
        if self.lent is None:
            return self.own
        job_class, deadline_ns = min(self.own.job_class, self.lent[0]), min(self.own.deadline_ns, self.lent[1])
        dues = [due_ns for due_ns in (self.own.due_ns, self.lent[2]) if due_ns is not None]
        due_ns = min(dues) if dues and self.lent[2] is not None else None
        return replace(self.own, job_class=job_class, deadline_ns=deadline_ns, due_ns=due_ns)

    def is_behind(self, now_ns: int) -> bool:
        """It will not end by when it is due."""
        return self.job.due_ns is not None and now_ns + self.own.expected_ns > self.job.due_ns

    def is_hopeless(self, now_ns: int) -> bool:
        """And its deadline leaves room to wait."""
        job = self.job
        if job.due_ns is None or not self.is_behind(now_ns):
            return False
        return job.due_ns + ASIDE_ROOM_TIMES * self.own.expected_ns <= job.deadline_ns

    def lapse(self, now_ns: int) -> bool:
        """End a loan that is over; True when the job is late then."""
        if self.lent is not None and self.lent[1] <= now_ns:
            self.lent = None
        return self.lent is None and self.own.is_late(now_ns)


class Orders(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.schedule = Schedule(JOBS_MAX, BEGUN_MAX)
        self.waiting: dict[int, Known] = {}
        self.running: dict[int, Known] = {}
        self.gone: set[int] = set()
        """Dropped or shed, and not handed out yet."""
        self.now_ns = 0
        self.job_ids = 0

    def drop_late(self) -> None:
        late = [job_id for job_id, known in self.waiting.items() if known.lapse(self.now_ns)]
        for job_id in late:
            del self.waiting[job_id]
        self.gone.update(late)

    def is_full(self) -> bool:
        return len(self.waiting) + len(self.running) >= JOBS_MAX

    @rule(job_class=classes, span_ns=spans_ns, expected_ns=st.integers(1, 9), droppable=st.booleans(), due_ns=dues_ns)
    def submit(self, job_class, span_ns, expected_ns, droppable, due_ns):
        self.job_ids += 1
        due_ns = None if due_ns is None else self.now_ns + due_ns
        job = Job(self.job_ids, job_class, self.now_ns + span_ns, expected_ns, droppable, due_ns)
        is_taken_in = not job.is_late(self.now_ns) and len(self.gone) < JOBS_MAX
        if is_taken_in and self.is_full():
            self.drop_late()
        if is_taken_in and self.is_full():
            is_taken_in = self.shed_for(job)
        assert self.schedule.submit(job, self.now_ns) == is_taken_in
        if is_taken_in:
            self.waiting[job.job_id] = Known(job)

    def shed_for(self, job: Job) -> bool:
        def loss(job_id: int) -> tuple[bool, int, int]:
            known = self.waiting[job_id]
            return not known.is_begun, known.job.deadline_ns, job_id

        victims = [
            job_id for job_id, known in self.waiting.items() if known.job.job_class in AHEAD and known.own.droppable
        ]
        if not victims or job.job_class in AHEAD:
            return False
        victim = max(victims, key=loss)
        del self.waiting[victim]
        self.gone.add(victim)
        return True

    @rule()
    def take(self):
        self.drop_late()
        head, dropped = self.schedule.take(self.now_ns)
        assert [each.job_id for each in dropped] == list(dict.fromkeys(each.job_id for each in dropped))
        assert {each.job_id for each in dropped} == self.gone
        self.gone = set()
        if head is None:
            assert not self.waiting
            return
        known = self.waiting.pop(head.job_id)
        assert head == known.job
        self.running[head.job_id] = known
        fresh = [other for other in self.waiting.values() if not other.is_behind(self.now_ns)]
        if known.is_hopeless(self.now_ns):
            assert not fresh, "late work goes before work that can be in time"
            return
        assert all(head.job_class <= each.job.job_class for each in fresh)
        rivals = [other for other in fresh if other.job.job_class == head.job_class]
        begun = sum(other.is_begun for other in (*self.waiting.values(), known))
        if begun >= BEGUN_MAX and known.is_begun:
            # Enough have begun: one of these goes on, the earliest of them.
            rivals = [other for other in rivals if other.is_begun]
        elif begun >= BEGUN_MAX and head.job_class > JobClass.JOINED:
            assert not any(other.is_begun for other in rivals), "one more begins though enough have"
        earliest_ns = min((other.job.deadline_ns for other in rivals), default=head.deadline_ns)
        assert head.deadline_ns <= earliest_ns

    @rule()
    def expire(self):
        self.drop_late()
        assert {each.job_id for each in self.schedule.expire(self.now_ns)} == self.gone
        self.gone = set()

    @precondition(lambda self: self.running)
    @rule(data=st.data(), left_ns=st.integers(1, 9))
    def put_back(self, data, left_ns):
        job_id = data.draw(st.sampled_from(sorted(self.running)))
        known = self.running.pop(job_id)
        known.own, known.is_begun = replace(known.own, expected_ns=left_ns), True
        self.schedule.put_back(known.own)
        self.waiting[job_id] = known

    @precondition(lambda self: self.running)
    @rule(data=st.data(), left_ns=st.integers(0, 9))
    def progress(self, data, left_ns):
        job_id = data.draw(st.sampled_from(sorted(self.running)))
        self.running[job_id].own = replace(self.running[job_id].own, expected_ns=left_ns)
        self.schedule.progress(job_id, left_ns)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data):
        job_id = data.draw(st.sampled_from(sorted(self.running)))
        del self.running[job_id]
        self.schedule.finish(job_id, 5)

    @precondition(lambda self: self.waiting or self.running)
    @rule(data=st.data(), job_class=classes, span_ns=st.integers(1, 40), due_ns=dues_ns)
    def promote(self, data, job_class, span_ns, due_ns):
        job_id = data.draw(st.sampled_from(sorted({**self.waiting, **self.running})))
        deadline_ns = self.now_ns + span_ns
        due_ns = None if due_ns is None else self.now_ns + due_ns
        assert self.schedule.promote(job_id, job_class, deadline_ns, due_ns)
        (self.waiting.get(job_id) or self.running[job_id]).lent = (job_class, deadline_ns, due_ns)

    @precondition(lambda self: self.waiting or self.running)
    @rule(data=st.data())
    def demote(self, data):
        job_id = data.draw(st.sampled_from(sorted({**self.waiting, **self.running})))
        assert self.schedule.demote(job_id)
        (self.waiting.get(job_id) or self.running[job_id]).lent = None

    @rule(data=st.data())
    def cancel(self, data):
        job_id = data.draw(st.sampled_from(sorted({**self.waiting, **self.running}) or [0]))
        assert self.schedule.cancel(job_id) == (job_id in self.waiting)
        self.waiting.pop(job_id, None)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def must_yield(self, data):
        known = self.running[data.draw(st.sampled_from(sorted(self.running)))]
        if known.lapse(self.now_ns):
            assert self.schedule.must_yield(known.own, self.now_ns)
            return
        self.drop_late()
        fresh = [other.job for other in self.waiting.values() if not other.is_behind(self.now_ns)]
        possible = [other.job for other in self.waiting.values() if not other.is_hopeless(self.now_ns)]
        must, may = (self.is_outranked(known, rivals) for rivals in (fresh, possible))
        assert must <= self.schedule.must_yield(known.own, self.now_ns) <= may

    def is_outranked(self, known: Known, rivals: list[Job]) -> bool:
        if known.is_hopeless(self.now_ns):
            return bool(rivals)
        now = known.job
        order = now.job_class, now.deadline_ns
        is_earlier = known.lent is not None and any((each.job_class, each.deadline_ns) < order for each in rivals)
        return is_earlier or any(each.job_class < now.job_class for each in rivals)

    def known(self) -> list[Known]:
        return [*self.waiting.values(), *self.running.values()]

    @rule(by_ns=spans_ns)
    def advance(self, by_ns):
        self.now_ns += by_ns

    @invariant()
    def agrees_with_the_model(self):
        self.schedule.check()
        jobs = [known.job for known in self.known()]
        counts = {job_class: sum(each.job_class == job_class for each in jobs) for job_class in JobClass}
        productions = counts[JobClass.JOINED] + counts[JobClass.APPEND] + counts[JobClass.PRE_INFER]
        backlog_ns = sum(each.expected_ns for each in jobs)
        seen = self.schedule.load()
        assert seen.backlog_ns + seen.aside_ns == backlog_ns
        aside_ns = seen.aside_ns if any(known.job.due_ns is not None for known in self.known()) else 0
        left_ns = backlog_ns - aside_ns
        assert seen == Queues(counts[JobClass.RANK], counts[JobClass.FULL], productions, left_ns, aside_ns)


TestOrders = Orders.TestCase
TestOrders.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
