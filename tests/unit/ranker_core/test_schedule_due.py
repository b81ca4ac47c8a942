"""What cannot be in time any more goes behind everything that can, and is answered all the same."""

from __future__ import annotations

from services.ranker.core.schedule import JobClass
from tests.unit.ranker_core.test_schedule import APPEND, FULL, JOINED, PRE, RANK, job, schedule, taken

FAR = 10_000


def test_what_is_late_already_does_not_make_the_next_late():
    """Each takes 10: the second is late when the first has ended, the third is not."""
    made = schedule(*(job(number, FULL, FAR + number, due_ns=due) for number, due in ((1, 12), (2, 15), (3, 22))))
    order = []
    for now_ns in (0, 10, 20):
        head, _ = made.take(now_ns)
        assert head is not None
        order.append(head.job_id)
        made.finish(head.job_id, 10)
        made.check()
    assert order == [1, 3, 2]


def test_what_is_in_time_goes_first_whatever_its_class():
    made = schedule(job(1, RANK, FAR, due_ns=5), job(2, FULL, FAR), job(3, PRE, FAR), job(4, APPEND, FAR))
    assert taken(made) == [4, 2, 3, 1]


def test_a_job_without_a_due_time_is_never_set_aside():
    assert taken(schedule(job(1, RANK, FAR), job(2, FULL, FAR, due_ns=FAR)), now_ns=FAR - 1) == [1, 2]


def test_a_production_is_set_aside_when_psi_comes_too_late_for_who_waits():
    made = schedule(job(1, PRE, FAR), job(2, PRE, FAR))
    made.promote(1, JOINED, FAR - 1, 9)
    made.promote(2, JOINED, FAR - 1, 10)
    made.check()
    assert taken(made) == [2, 1]


def test_what_was_set_aside_comes_back_when_nobody_waits_for_it_any_more():
    made = schedule(job(1, APPEND, FAR), job(2, PRE, FAR))
    made.promote(1, JOINED, FAR - 1, 9)
    assert made.take(0)[0].job_id == 2
    made.check()
    made.demote(1)
    assert made.must_yield(job(2, PRE, FAR), 0), "an append goes before a pre-infer"
    made.check()


def test_a_running_job_counts_as_backlog_again_when_it_is_lent_another_due_time():
    made = schedule(job(1, RANK, FAR, due_ns=5))
    made.take(0)
    assert (made.load().backlog_ns, made.load().aside_ns) == (0, 10)
    made.promote(1, RANK, FAR, None)
    assert (made.load().backlog_ns, made.load().aside_ns) == (10, 0)


def test_a_running_job_that_cannot_be_in_time_yields_to_any_that_can():
    made = schedule(job(1, RANK, FAR, expected_ns=100, due_ns=150))
    running, _ = made.take(0)
    assert running is not None and made.submit(job(2, PRE, FAR), 0)
    assert not made.must_yield(running, 40)
    made.progress(1, 80)
    assert made.must_yield(running, 80)
    made.put_back(job(1, RANK, FAR, expected_ns=80, due_ns=150))
    made.check()
    assert taken(made, 80) == [2, 1]


def test_a_job_that_cannot_be_in_time_goes_on_while_nothing_else_is_there():
    made = schedule(job(1, RANK, FAR, due_ns=5))
    running, _ = made.take(0)
    assert running is not None and not made.must_yield(running, 100)


def test_two_that_are_late_do_not_take_turns():
    made = schedule(job(1, RANK, FAR, due_ns=5), job(2, FULL, FAR - 1, due_ns=5))
    running, _ = made.take(10)
    assert running is not None and running.job_id == 2
    assert not made.must_yield(running, 20)


def test_a_job_whose_deadline_comes_soon_after_it_is_due_keeps_its_place():
    made = schedule(job(1, RANK, 89, due_ns=50), job(2, RANK, 91, due_ns=50), job(3, FULL, FAR))
    assert taken(made, 45) == [1, 3, 2], "four times 10 after 50 is 90"


def test_when_there_is_too_much_for_long_half_is_in_time_and_the_rest_ends_with_its_deadline():
    """Twice what the device can do: by deadline alone all would be late once the first were."""
    made = schedule(jobs_max=64)
    in_time, dropped, now_ns = 0, 0, 0
    for number in range(400):
        arrives_ns = 5 * number
        assert made.submit(job(number, RANK, arrives_ns + 200, due_ns=arrives_ns + 30), max(now_ns, arrives_ns))
        if number % 2:
            head, late = made.take(now_ns)
            assert head is not None
            now_ns += 10
            made.finish(head.job_id, 10)
            in_time += head.due_ns is not None and now_ns <= head.due_ns
            dropped += len(late)
            made.check()
    assert in_time >= 190 and dropped >= 150


def test_late_jobs_that_have_begun_end_before_others_of_their_kind_begin():
    made = schedule(job(1, FULL, FAR, due_ns=50))
    running, _ = made.take(0)
    assert running is not None
    made.submit(job(2, RANK, FAR - 5, due_ns=55), 45)
    made.put_back(running)
    assert [made.take(60)[0].job_id for _ in range(2)] == [1, 2]


def test_late_jobs_still_end_with_their_deadline():
    made = schedule(job(1, RANK, 200, due_ns=50))
    assert made.expire(100) == ()
    made.take(100)
    made.put_back(job(1, RANK, 200, due_ns=50))
    assert [each.job_id for each in made.expire(200)] == [1]
    made.check()


def test_every_class_can_be_set_aside():
    for job_class in JobClass:
        made = schedule(job(1, job_class, FAR, due_ns=5), job(2, PRE, FAR))
        assert taken(made) == [2, 1]


def test_what_is_set_aside_is_no_part_of_the_backlog():
    made = schedule(job(1, RANK, FAR, due_ns=5), job(2, FULL, FAR))
    running, _ = made.take(0)
    assert running is not None and running.job_id == 2
    assert (made.load().backlog_ns, made.load().aside_ns) == (10, 10)
    made.finish(2, 10)
    late, _ = made.take(10)
    assert late is not None and late.job_id == 1
    assert (made.load().backlog_ns, made.load().aside_ns) == (0, 10), "nor while it runs: it yields to all"
