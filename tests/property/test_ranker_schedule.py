"""The device's order against a model that sorts everything each time."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.ranker.core.schedule import Job, JobClass, Queues, Schedule

JOBS_MAX = 6
classes = st.sampled_from(JobClass)
spans_ns = st.integers(0, 40)


class Orders(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.schedule = Schedule(JOBS_MAX)
        self.waiting: list[Job] = []
        self.running: list[Job] = []
        self.shed: list[Job] = []
        self.now_ns = 0
        self.job_ids = 0

    @rule(job_class=classes, span_ns=spans_ns, expected_ns=st.integers(1, 9), droppable=st.booleans())
    def submit(self, job_class, span_ns, expected_ns, droppable):
        self.job_ids += 1
        job = Job(self.job_ids, job_class, self.now_ns + span_ns, expected_ns, droppable)
        is_taken_in = not job.is_late(self.now_ns)
        if is_taken_in and len(self.waiting) + len(self.running) >= JOBS_MAX:
            victims = [each for each in self.waiting if each.job_class == JobClass.PRE_INFER and each.droppable]
            is_taken_in = bool(victims) and job_class != JobClass.PRE_INFER and len(self.shed) < JOBS_MAX
            if is_taken_in:
                victim = max(victims, key=lambda each: (each.deadline_ns, each.job_id))
                self.waiting.remove(victim)
                self.shed.append(victim)
        assert self.schedule.submit(job, self.now_ns) == is_taken_in
        if is_taken_in:
            self.waiting.append(job)

    @rule()
    def take(self):
        head, dropped = self.schedule.take(self.now_ns)
        late = [each for each in dropped if each not in self.shed]
        assert all(each.is_late(self.now_ns) and each in self.waiting for each in late)
        assert len(set(dropped)) == len(dropped) == len(self.shed) + len(late)
        self.shed = []
        self.waiting = [each for each in self.waiting if each not in late]
        # A late job may stand behind one that may not be dropped; it is never run.
        runnable = [each for each in self.waiting if not each.is_late(self.now_ns)]
        if head is None:
            assert not runnable
            return
        assert not head.is_late(self.now_ns)
        assert (head.job_class, head.deadline_ns) == min((each.job_class, each.deadline_ns) for each in runnable)
        self.waiting.remove(head)
        self.running.append(head)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), left_ns=st.integers(1, 9))
    def put_back(self, data, left_ns):
        job = data.draw(st.sampled_from(self.running))
        self.running.remove(job)
        left = replace(job, expected_ns=left_ns)
        self.schedule.put_back(left)
        self.waiting.append(left)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data):
        job = data.draw(st.sampled_from(self.running))
        self.running.remove(job)
        self.schedule.finish(job.job_id, 5)

    @precondition(lambda self: self.waiting or self.running)
    @rule(data=st.data(), job_class=classes, span_ns=spans_ns)
    def promote(self, data, job_class, span_ns):
        job = data.draw(st.sampled_from(self.waiting + self.running))
        deadline_ns = self.now_ns + span_ns
        assert self.schedule.promote(job.job_id, job_class, deadline_ns)
        lent = replace(job, job_class=min(job.job_class, job_class), deadline_ns=min(job.deadline_ns, deadline_ns))
        for table in (self.waiting, self.running):
            if job in table:
                table[table.index(job)] = lent

    @rule(data=st.data())
    def cancel(self, data):
        known = [each.job_id for each in self.waiting + self.running] or [0]
        job_id = data.draw(st.sampled_from(known))
        is_waiting = any(each.job_id == job_id for each in self.waiting)
        assert self.schedule.cancel(job_id) == is_waiting
        self.waiting = [each for each in self.waiting if each.job_id != job_id]

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def must_yield(self, data):
        job = data.draw(st.sampled_from(self.running))
        assert self.schedule.must_yield(job, self.now_ns) == any(
            each.job_class < job.job_class for each in self.waiting
        )

    @rule(by_ns=spans_ns)
    def advance(self, by_ns):
        self.now_ns += by_ns

    @invariant()
    def agrees_with_the_model(self):
        self.schedule.check()
        jobs = self.waiting + self.running
        counts = [sum(each.job_class == job_class for each in jobs) for job_class in JobClass]
        assert self.schedule.load() == Queues(*counts, sum(each.expected_ns for each in jobs))


TestOrders = Orders.TestCase
TestOrders.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
