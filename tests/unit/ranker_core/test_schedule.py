import pytest

from services.ranker.core.schedule import Job, JobClass, Queues, Schedule

RANK, FULL, PRE = JobClass.RANK, JobClass.FULL, JobClass.PRE_INFER
JOINED, APPEND = JobClass.JOINED, JobClass.APPEND


def job(
    job_id: int,
    job_class: JobClass,
    deadline_ns: int,
    *,
    expected_ns: int = 10,
    droppable: bool = True,
    due_ns: int | None = None,
) -> Job:
    return Job(job_id, job_class, deadline_ns, expected_ns, droppable, due_ns)


def schedule(*jobs: Job, jobs_max: int = 16) -> Schedule:
    made = Schedule(jobs_max)
    for each in jobs:
        assert made.submit(each, 0)
    made.check()
    return made


def taken(made: Schedule, now_ns: int = 0) -> list[int]:
    ids = []
    while (head := made.take(now_ns)[0]) is not None:
        ids.append(head.job_id)
        made.finish(head.job_id, 1)
        made.check()
    return ids


def test_rank_before_full_before_pre_infer_and_earliest_deadline_first_within():
    jobs = [job(1, PRE, 10), job(2, FULL, 90), job(3, RANK, 80), job(4, RANK, 70), job(5, PRE, 5), job(6, FULL, 60)]
    assert taken(schedule(*jobs)) == [4, 3, 6, 2, 5, 1]


def test_an_append_goes_before_a_full_rank_and_a_pre_infer_and_after_ranks():
    made = schedule(job(1, PRE, 10), job(2, FULL, 20), job(3, APPEND, 90), job(4, RANK, 95), job(5, APPEND, 80))
    assert taken(made) == [4, 5, 3, 2, 1]


def test_a_rank_goes_before_a_joined_production_whatever_their_deadlines():
    made = schedule(job(1, PRE, 500), job(2, RANK, 90))
    assert made.promote(1, JOINED, 10)
    assert taken(made) == [2, 1]


def test_a_joined_production_goes_before_appends_and_full_ranks_whatever_their_deadlines():
    made = schedule(job(1, PRE, 500), job(2, FULL, 10), job(3, APPEND, 20))
    assert made.promote(1, JOINED, 400)
    assert taken(made) == [1, 3, 2]


def test_joined_productions_run_by_the_deadlines_they_were_lent():
    made = schedule(job(1, PRE, 500), job(2, APPEND, 600), job(3, PRE, 700))
    for job_id, deadline_ns in ((1, 80), (2, 90), (3, 70)):
        made.promote(job_id, JOINED, deadline_ns)
    assert taken(made) == [3, 1, 2]


def test_a_running_joined_production_gives_way_to_ranks_only():
    made = schedule(job(1, PRE, 500))
    head, _ = made.take(0)
    assert head is not None
    made.promote(1, JOINED, 40)
    assert made.submit(job(2, FULL, 10), 0) and made.submit(job(3, APPEND, 10), 0)
    assert not made.must_yield(head, 0)
    assert made.submit(job(4, RANK, 90), 0)
    assert made.must_yield(head, 0)
    made.put_back(head)
    made.check()
    assert taken(made) == [4, 1, 3, 2]


def test_a_running_full_rank_gives_way_to_an_append_and_not_the_other_way_round():
    made = schedule(job(1, FULL, 500))
    full, _ = made.take(0)
    assert full is not None
    assert made.would_preempt(job(2, APPEND, 900))
    made.submit(job(2, APPEND, 900), 0)
    assert made.must_yield(full, 0)
    made.put_back(full)
    append, _ = made.take(0)
    assert append is not None and append.job_id == 2
    assert not made.must_yield(append, 0)


def test_a_joined_append_that_is_demoted_is_an_append_again():
    made = schedule(job(1, APPEND, 500), job(2, APPEND, 90), job(3, FULL, 20))
    made.promote(1, JOINED, 80)
    assert made.demote(1)
    made.check()
    assert taken(made) == [2, 1, 3]


def test_equal_deadlines_run_in_the_order_of_arrival():
    assert taken(schedule(job(3, RANK, 50), job(1, RANK, 50), job(2, RANK, 50))) == [3, 1, 2]


def test_late_work_is_dropped_and_handed_out_once():
    made = schedule(job(1, PRE, 10), job(2, RANK, 10), job(3, RANK, 100))
    head, dropped = made.take(10)
    assert head is not None
    assert (head.job_id, {each.job_id for each in dropped}) == (3, {1, 2})
    assert made.take(10) == (None, ())


def test_late_work_that_may_not_be_dropped_runs():
    made = schedule(job(1, FULL, 10, droppable=False))
    head, dropped = made.take(1_000)
    assert head is not None and not dropped


def test_late_work_is_not_taken_in():
    made = Schedule(4)
    assert not made.submit(job(1, RANK, 10), 10)
    assert made.submit(job(1, RANK, 10, droppable=False), 10)


def test_full_table_sheds_the_last_pre_infer_for_a_rank():
    made = schedule(job(1, PRE, 50), job(2, PRE, 90), job(3, FULL, 10), jobs_max=3)
    assert not made.submit(job(4, PRE, 5), 0), "a pre-infer sheds nobody"
    assert made.submit(job(5, RANK, 40), 0)
    made.check()
    head, dropped = made.take(0)
    assert head is not None and head.job_id == 5
    assert [each.job_id for each in dropped] == [2]
    assert made.take(0)[1] == (), "dropped work is handed out once"


def test_full_table_sheds_an_append_like_a_pre_infer():
    for first, last in ((PRE, APPEND), (APPEND, PRE)):
        made = schedule(job(1, first, 50), job(2, last, 90), jobs_max=2)
        assert not made.submit(job(3, APPEND, 5), 0), "an append sheds nobody"
        assert made.submit(job(4, FULL, 40), 0)
        made.check()
        assert [each.job_id for each in made.expire(0)] == [2], "the last deadline goes, of whichever class"


def test_a_production_that_a_rank_waits_for_is_not_shed():
    made = schedule(job(1, PRE, 500), job(2, APPEND, 600), jobs_max=2)
    made.promote(1, JOINED, 40), made.promote(2, JOINED, 50)
    assert not made.submit(job(3, RANK, 30), 0)
    made.demote(1)
    assert made.submit(job(3, RANK, 30), 0)
    assert [each.job_id for each in made.expire(0)] == [1]


def test_full_table_of_ranks_refuses():
    made = schedule(job(1, RANK, 50), job(2, FULL, 50), jobs_max=2)
    assert not made.submit(job(3, RANK, 10), 0)
    assert made.load() == Queues(1, 1, 0, 20)


def test_promoted_job_runs_in_its_new_class_and_by_its_new_deadline():
    made = schedule(job(1, PRE, 500), job(2, RANK, 90), job(3, FULL, 20))
    assert made.promote(1, RANK, 80)
    assert made.load() == Queues(2, 1, 0, 30)
    assert taken(made) == [1, 2, 3]


def test_promotion_never_makes_less_urgent():
    made = schedule(job(1, RANK, 50), job(2, RANK, 60))
    assert made.promote(1, PRE, 900)
    assert taken(made) == [1, 2]
    assert not made.promote(1, RANK, 1), "it is gone"


def test_running_job_that_was_promoted_keeps_it_when_put_back():
    made = schedule(job(1, PRE, 500))
    head, _ = made.take(0)
    assert head is not None
    made.promote(1, RANK, 40)
    assert made.submit(job(2, FULL, 10), 0)
    assert not made.must_yield(head, 0), "it runs as a rank now"
    made.put_back(head)
    made.check()
    assert taken(made) == [1, 2]


def test_running_job_yields_to_a_higher_class_only():
    made = schedule(job(1, FULL, 500))
    head, _ = made.take(0)
    assert head is not None
    assert not made.must_yield(head, 0)
    made.submit(job(2, FULL, 10), 0)
    made.submit(job(3, PRE, 10), 0)
    assert not made.must_yield(head, 0)
    made.submit(job(4, RANK, 50), 0)
    assert made.must_yield(head, 0)
    made.submit(job(5, RANK, 90), 0)
    assert made.must_yield(head, 60), "one that is late hides nobody"


def test_put_back_job_counts_what_is_left():
    made = schedule(job(1, PRE, 500, expected_ns=100))
    head, _ = made.take(0)
    assert head is not None
    made.put_back(Job(1, PRE, 500, 30, True))
    assert made.load() == Queues(0, 0, 1, 30)


def test_cancelled_job_is_never_taken():
    made = schedule(job(1, RANK, 50), job(2, RANK, 60))
    assert made.cancel(1)
    assert not made.cancel(1)
    assert taken(made) == [2]


def test_running_job_cannot_be_cancelled_here():
    made = schedule(job(1, RANK, 50))
    made.take(0)
    assert not made.cancel(1)
    made.finish(1, 7)
    assert made.spent_ns[RANK] == 7
    assert made.load() == Queues(0, 0, 0, 0)


def test_one_job_twice_is_a_bug():
    made = schedule(job(1, RANK, 50))
    with pytest.raises(AssertionError, match="twice"):
        made.submit(job(1, RANK, 50), 0)


def test_late_work_in_the_middle_of_a_queue_leaves_it_and_is_no_backlog():
    made = schedule(job(1, FULL, 10, droppable=False), job(2, FULL, 20), job(3, FULL, 99))
    assert [each.job_id for each in made.expire(20)] == [2]
    made.check()
    assert made.load() == Queues(0, 2, 0, 20)
    assert taken(made, 20) == [1, 3]


def test_late_work_does_not_keep_others_out_of_a_full_table():
    made = schedule(job(1, RANK, 10), job(2, FULL, 10), jobs_max=2)
    assert made.submit(job(3, RANK, 50), 10)
    assert {each.job_id for each in made.take(10)[1]} == {1, 2}


def test_running_job_that_is_late_is_set_aside_and_dropped():
    made = schedule(job(1, PRE, 50))
    head, _ = made.take(0)
    assert head is not None
    assert not made.must_yield(head, 49)
    assert made.must_yield(head, 50)
    made.put_back(head)
    assert made.take(50)[1] == (head,)


def test_loan_that_is_over_leaves_the_job_what_it_was():
    made = schedule(job(1, PRE, 500), job(2, FULL, 90))
    made.promote(1, RANK, 40)
    assert made.load().rank_jobs == 1
    assert made.take(40)[0] == job(2, FULL, 90), "the loan ended before the job ran"
    assert made.load() == Queues(0, 1, 1, 20)


def test_loan_that_ends_while_its_job_runs_lets_the_next_rank_through():
    made = schedule(job(1, PRE, 500))
    head, _ = made.take(0)
    assert head is not None
    made.promote(1, RANK, 40)
    assert made.submit(job(2, RANK, 90), 0)
    assert not made.must_yield(head, 39)
    assert made.must_yield(head, 40)


def test_loan_that_is_taken_back_lets_the_rank_that_overtook_through():
    made = schedule(job(1, PRE, 500))
    head, _ = made.take(0)
    assert head is not None
    made.promote(1, RANK, 40)
    assert made.submit(job(2, RANK, 90), 0)
    assert made.demote(1)
    assert made.must_yield(head, 0)
    assert not made.demote(7), "it is unknown"


def test_lent_job_yields_to_a_rank_with_an_earlier_deadline():
    made = schedule(job(1, PRE, 500))
    head, _ = made.take(0)
    assert head is not None
    made.promote(1, RANK, 40)
    assert made.submit(job(2, RANK, 50), 0)
    assert not made.must_yield(head, 0)
    assert made.submit(job(3, RANK, 30), 0)
    assert made.must_yield(head, 0)
    made.put_back(head)
    assert taken(made) == [3, 1, 2]


def test_job_is_not_late_while_a_rank_waits_for_it():
    made = schedule(job(1, PRE, 20))
    made.promote(1, RANK, 60)
    assert made.expire(59) == ()
    assert [each.job_id for each in made.expire(60)] == [1]


def test_later_loan_takes_the_place_of_an_earlier_one():
    made = schedule(job(1, PRE, 500), job(2, RANK, 50))
    made.promote(1, RANK, 40)
    made.promote(1, RANK, 60)
    assert taken(made) == [2, 1]


def test_few_jobs_have_begun_at_any_time():
    made = Schedule(16, begun_max=2)
    for job_id in range(1, 5):
        assert made.submit(job(job_id, PRE, 100 - job_id), 0)
        head, _ = made.take(0)
        assert head is not None
        made.put_back(head)
    # 3 and 4 have earlier deadlines than 1 and 2, and must wait until one of these is done.
    assert taken(made) == [2, 4, 3, 1]


def test_rank_does_not_wait_for_what_others_have_begun():
    made = Schedule(16, begun_max=1)
    assert made.submit(job(1, PRE, 50), 0)
    head, _ = made.take(0)
    assert head is not None
    made.promote(1, RANK, 45)
    made.put_back(head)
    assert made.submit(job(2, RANK, 40), 0)
    assert taken(made) == [2, 1]


def test_a_joined_production_does_not_wait_for_another_that_has_begun():
    made = Schedule(16, begun_max=1)
    assert made.submit(job(1, PRE, 500), 0)
    head, _ = made.take(0)
    assert head is not None
    made.promote(1, JOINED, 45)
    made.put_back(head)
    assert made.submit(job(2, PRE, 500), 0)
    made.promote(2, JOINED, 40)
    assert taken(made) == [2, 1]


def test_productions_of_all_three_kinds_count_as_pre_infers():
    made = schedule(job(1, PRE, 500), job(2, PRE, 500), job(3, APPEND, 500), job(4, FULL, 500), job(5, RANK, 500))
    made.promote(1, JOINED, 40)
    assert made.load() == Queues(1, 1, 3, 50)
    assert made.take(0)[0] == job(5, RANK, 500)
    assert made.take(0)[0] == job(1, JOINED, 40)
    assert made.load() == Queues(1, 1, 3, 50), "running or not"


def test_running_job_counts_what_is_left_of_it():
    made = schedule(job(1, PRE, 500, expected_ns=100))
    made.take(0)
    made.progress(1, 30)
    assert made.load().backlog_ns == 30


def test_the_first_more_urgent_job_is_the_one_that_preempts():
    made = schedule(job(1, PRE, 500))
    rank = job(2, RANK, 50)
    assert not made.would_preempt(rank), "nothing runs"
    made.take(0)
    assert made.would_preempt(rank) and made.would_preempt(job(2, FULL, 50))
    assert not made.would_preempt(job(2, PRE, 50))
    made.submit(rank, 0)
    assert not made.would_preempt(job(3, RANK, 40)), "another one has asked already"


def test_what_was_dropped_and_never_asked_for_stays_bounded():
    made, accepted = Schedule(4), 0
    for job_id in range(1, 100):
        # Late as soon as the next comes; the owner never asks who was dropped.
        accepted += made.submit(job(job_id, RANK, job_id + 1), job_id)
        made.check()
    assert accepted < 12
    assert len(made.expire(1000)) == accepted
    assert made.submit(job(100, RANK, 2000), 1000)
