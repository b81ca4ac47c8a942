"""How busy an instance is taken to be."""

import math

import pytest

from relaygr.domain.feedback import Feedback
from services.router.core.load import PROMISE_NS, RATE_MEMORY_NS, LoadView, Queues

MS = 1_000_000


def test_calls_in_flight_count_until_they_end():
    load = LoadView()
    first = load.begin("a", 5 * MS, 0)
    load.begin("a", 7 * MS, 0)
    assert load.load_ns("a", 0) == 12 * MS
    load.end(first, 1)
    load.end(first, 2)
    assert load.load_ns("a", 2) == 7 * MS
    assert load.load_ns("b", 2) == 0
    load.check()


def test_a_backlog_drains_with_time():
    load = LoadView()
    load.report("a", Queues(backlog_ns=10 * MS), 0)
    assert load.load_ns("a", 4 * MS) == 6 * MS
    assert load.load_ns("a", 40 * MS) == 0


def test_work_that_a_reply_counts_is_not_counted_twice():
    load = LoadView()
    old = load.begin("a", 5 * MS, 0)
    load.report("a", Queues(backlog_ns=8 * MS), 1 * MS)
    assert load.load_ns("a", 1 * MS) == 8 * MS
    load.begin("a", 3 * MS, 1 * MS)
    assert load.load_ns("a", 1 * MS) == 11 * MS
    load.end(old, 1 * MS)
    assert load.load_ns("a", 1 * MS) == 11 * MS
    load.check()


def test_own_calls_count_however_old_the_last_reply_is():
    load = LoadView()
    load.begin("a", 5 * MS, 0)
    load.report("a", Queues(backlog_ns=5 * MS), 0)
    assert load.load_ns("a", 60_000 * MS) == 5 * MS


def test_a_reply_at_the_end_of_a_call_replaces_the_estimate():
    load = LoadView()
    call = load.begin("a", 5 * MS, 0)
    load.end(call, 2 * MS, Queues(rank_jobs=3, backlog_ns=9 * MS))
    assert load.queues("a", 2 * MS) == Queues(rank_jobs=3, backlog_ns=9 * MS)
    load.check()


def test_a_promise_counts_until_it_is_forgotten():
    load = LoadView()
    load.promise("a", 5 * MS, 0)
    load.promise("a", 2 * MS, 0)
    assert load.load_ns("a", PROMISE_NS - 1) == load.pressure_ns("a", PROMISE_NS - 1) == 7 * MS
    assert load.load_ns("a", PROMISE_NS) == load.pressure_ns("a", PROMISE_NS) == 0
    load.check()


def test_a_promise_that_was_forgotten_does_not_come_back_with_the_next():
    load = LoadView()
    load.promise("a", 5 * MS, 0)
    load.promise("a", 2 * MS, PROMISE_NS)
    assert load.load_ns("a", PROMISE_NS) == 2 * MS


def test_a_promise_is_kept_by_the_pre_infer_and_not_by_a_rank():
    load = LoadView()
    load.promise("a", 5 * MS, 0)
    rank = load.begin("a", 1 * MS, 0, is_rank=True)
    assert load.load_ns("a", 0) == 6 * MS
    load.end(rank, 0)
    load.begin("a", 5 * MS, 0)
    assert load.load_ns("a", 0) == 5 * MS, "it is in flight now, and counted once"
    load.check()


def test_a_reply_knows_better_than_a_promise():
    load = LoadView()
    load.promise("a", 5 * MS, 0)
    load.report("a", Queues(backlog_ns=3 * MS), 0)
    assert load.load_ns("a", 0) == 3 * MS


def test_an_instance_that_came_back_starts_from_nothing():
    load = LoadView()
    call = load.begin("a", 5 * MS, 0)
    load.report("a", Queues(backlog_ns=9 * MS), 0)
    load.forget("a")
    assert load.load_ns("a", 0) == 0
    load.end(call, 1)
    load.begin("a", MS, 2)
    load.check()


def test_any_answer_is_a_sign_of_life():
    load = LoadView()
    load.begin("a", MS, 0)
    assert not load.has_spoken_since("a", 0)
    load.heard("a", 5)
    assert load.has_spoken_since("a", 4)
    assert not load.has_spoken_since("a", 5)


def test_ranks_per_second_are_smoothed_and_fade():
    load = LoadView()
    for index in range(1000):
        load.end(load.begin("a", 0, index * 50 * MS, is_rank=True), index * 50 * MS)
    assert load.rank_rate_hz("a", 50_000 * MS) == pytest.approx(20, rel=0.02)
    assert load.rank_rate_hz("a", 50_000 * MS + 5 * RATE_MEMORY_NS) < 0.2
    assert load.rank_rate_hz("b", 0) == 0


def test_an_instance_knows_its_ranks_better_than_one_of_its_routers():
    load = LoadView()
    call = load.begin("a", 0, 0, is_rank=True)
    load.end(call, 0, Queues(rank_rate_hz=80.0))
    assert load.rank_rate_hz("a", 0) == 80
    assert load.rank_rate_hz("a", RATE_MEMORY_NS) == pytest.approx(80 / math.e), "a word that is old fades"
    load.report("a", Queues(), 0)
    assert load.rank_rate_hz("a", 0) == pytest.approx(0.1), "one that says nothing: what is sent from here"


def test_feedback_stays_until_there_is_newer_and_ends_with_its_boot():
    load, told = LoadView(), Feedback(pre_infers=3)
    assert load.feedback("a") is None
    load.end(load.begin("a", 0, 0), 0, Queues(), told)
    load.end(load.begin("a", 0, 0), 0, Queues())
    assert load.feedback("a") == told
    load.forget("a")
    assert load.feedback("a") is None


def test_calls_and_instances_beyond_the_maxima_are_not_counted():
    load = LoadView(calls_max=1, instances_max=1)
    first = load.begin("a", MS, 0)
    second = load.begin("a", MS, 0)
    third = load.begin("b", MS, 0)
    assert load.load_ns("a", 0) == MS
    for call in (third, second, first):
        load.end(call, 1, Queues(backlog_ns=1))
    load.check()


def test_late_answers_of_instances_that_are_gone_take_no_room():
    load = LoadView(instances_max=2)
    for name in ("a", "b", "c"):
        call = load.begin(name, 5 * MS, 0)
        load.forget(name)
        load.heard(name, 1)
        load.end(call, 1)
    load.begin("d", 5 * MS, 2)
    assert load.load_ns("d", 2) == 5 * MS
    load.check()


def test_own_calls_that_an_instance_has_set_aside_hold_nobody_back():
    load = LoadView()
    for _ in range(10):
        load.begin("a", 5 * MS, 0)
    load.report("a", Queues(backlog_ns=7 * MS, aside_ns=40 * MS), 1 * MS)
    assert load.load_ns("a", 1 * MS) == 10 * MS
    load.begin("a", 5 * MS, 2 * MS)
    assert load.load_ns("a", 60_000 * MS) == 15 * MS
    load.check()


def test_the_sum_of_loads_leaves_out_what_is_set_aside():
    load = LoadView()
    for name in ("a", "b"):
        load.begin(name, 50 * MS, 0)
        load.report(name, Queues(backlog_ns=20 * MS, aside_ns=60 * MS), 0)
    names = {"a": None, "b": None}
    for now_ms in (0, 5, 19, 21, 100):
        assert load.total_ns("m", names, now_ms * MS) == sum(load.load_ns(name, now_ms * MS) for name in names)
    assert load.total_ns("m", names, 21 * MS) == 0
