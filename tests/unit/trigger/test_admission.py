"""The admission machine: one rule a test."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.trigger.core.admission import Admission
from services.trigger.core.effects import Admit, Decline, DeclineReason, EndReservation, PassBy
from services.trigger.core.events import Arrived, Outcome, PreInferAnswered, TicketsEnded

MS = 1_000_000
PSI_BYTES = 1_408_000


class Bench:
    """A machine, ids in order, and check() after each step."""

    def __init__(self, values, **rules):
        self.values = values
        self.machine = Admission(values.with_rules(**rules))
        self.count = 0

    def arrive(self, now_ns=0, *, demand=None, **instance):
        self.count += 1
        event = Arrived(f"t{self.count}", demand or self.values.demand, self.values.with_instance(**instance))
        effects = self.machine.handle(event, now_ns)
        self.machine.check()
        return effects[-1]

    def answer(self, ticket_id, outcome, now_ns=0, production_ns=None):
        effects = self.machine.handle(PreInferAnswered(ticket_id, outcome, production_ns), now_ns)
        self.machine.check()
        return effects

    def end(self, *ticket_ids, now_ns=0):
        effects = self.machine.handle(TicketsEnded(ticket_ids), now_ns)
        self.machine.check()
        return effects


def refusal(effect):
    """Why it was declined; None when it was admitted."""
    assert isinstance(effect, Admit | Decline)
    return effect.reason if isinstance(effect, Decline) else None


@pytest.fixture
def bench(values):
    return Bench(values)


def test_admits_at_risk_request_within_both_bounds(bench):
    effect = bench.arrive()
    assert isinstance(effect, Admit)
    assert (effect.ticket_id, effect.instance_id, effect.epoch, effect.window_ns) == ("t1", "r0", 7, 2_000 * MS)
    assert effect.assessment.psi_bytes == PSI_BYTES


def test_passes_by_what_fits_the_budget(bench, values):
    effect = bench.arrive(demand=values.with_demand(rank_budget_ns=1_000 * MS))
    assert isinstance(effect, PassBy)
    assert bench.machine.holdings.open_tickets == 0


def test_declines_when_footprint_would_exceed_share(values):
    bench = Bench(values)
    room = dict(device_budget_bytes=2 * 3 * PSI_BYTES)  # half of it: three prefixes
    assert [type(bench.arrive(**room)) for _ in range(3)] == [Admit] * 3
    effect = bench.arrive(**room)
    assert isinstance(effect, Decline) and effect.reason is DeclineReason.FOOTPRINT


def test_footprint_share_is_split_among_triggers(bench):
    room = dict(device_budget_bytes=2 * 3 * PSI_BYTES, trigger_count=3)
    assert isinstance(bench.arrive(**room), Admit)
    assert bench.arrive(**room).reason is DeclineReason.FOOTPRINT


def test_unknown_device_budget_admits_nothing(bench):
    assert bench.arrive(device_budget_bytes=0).reason is DeclineReason.FOOTPRINT


def test_declined_by_the_ranker_still_counts_until_its_window_ends(bench):
    room = dict(device_budget_bytes=2 * PSI_BYTES)
    bench.arrive(**room)
    bench.answer("t1", Outcome.DECLINED)
    assert bench.arrive(1_999 * MS, **room).reason is DeclineReason.FOOTPRINT
    assert isinstance(bench.arrive(2_000 * MS, **room), Admit)


def test_window_end_ends_the_reservation_once(bench):
    bench.arrive()
    assert bench.machine.deadline_ns() == 2_000 * MS
    assert bench.machine.expire(2_000 * MS - 1) == []
    assert bench.machine.expire(2_000 * MS) == [EndReservation("t1", "r0", PSI_BYTES)]
    assert bench.machine.expire(3_000 * MS) == []
    assert bench.machine.deadline_ns() is None
    assert bench.machine.open_bytes("r0", 7) == 0


def test_a_ticket_that_ended_frees_its_bytes_before_its_window_does(bench):
    room = dict(device_budget_bytes=2 * PSI_BYTES)
    bench.arrive(**room)
    assert bench.arrive(**room).reason is DeclineReason.FOOTPRINT
    assert bench.end("t1", now_ns=1 * MS) == [EndReservation("t1", "r0", PSI_BYTES)]
    assert bench.machine.open_bytes("r0", 7) == bench.machine.holdings.open_tickets == 0
    assert isinstance(bench.arrive(1 * MS, **room), Admit)


def test_a_ticket_ends_once_however_often_it_is_said(bench):
    bench.arrive(), bench.arrive()
    assert bench.end("t1", "t1") == [EndReservation("t1", "r0", PSI_BYTES)]
    assert bench.end("t1") == []
    assert bench.machine.open_bytes("r0", 7) == PSI_BYTES
    assert bench.machine.expire(2_000 * MS) == [EndReservation("t2", "r0", PSI_BYTES)]


def test_tickets_that_are_unknown_end_nothing(bench):
    bench.arrive()
    assert bench.end("nobody's", "") == bench.end() == []
    bench.machine.expire(2_000 * MS)
    assert bench.end("t1", now_ns=2_000 * MS) == [], "its window has closed"


def test_what_is_told_of_one_instance_frees_nothing_of_another(bench):
    bench.arrive(), bench.arrive(instance_id="r1"), bench.arrive(epoch=8)
    assert bench.end("t2") == [EndReservation("t2", "r1", PSI_BYTES)]
    assert [bench.machine.open_bytes(*boot) for boot in (("r0", 7), ("r1", 7), ("r0", 8))] == [PSI_BYTES, 0, PSI_BYTES]


def test_windows_that_close_by_then_are_told_before_the_tickets_that_ended(bench):
    bench.arrive(), bench.arrive(1 * MS)
    assert [effect.ticket_id for effect in bench.end("t2", "t1", now_ns=2_000 * MS)] == ["t1", "t2"]


def test_the_deadline_is_that_of_the_first_window_still_open(bench, values):
    for window_ms in (1_000, 3_000, 2_000):
        bench.arrive(demand=values.with_demand(window_ns=window_ms * MS))
    assert bench.machine.deadline_ns() == 1_000 * MS
    bench.end("t1")
    assert bench.machine.deadline_ns() == 2_000 * MS
    bench.end("t2")
    assert bench.machine.deadline_ns() == 2_000 * MS, "the one that ended stands behind it"
    bench.end("t3")
    assert bench.machine.deadline_ns() is None


def test_windows_that_close_together_pass_over_a_ticket_that_ended_among_them(bench):
    for now_ms in range(4):
        bench.arrive(now_ms * MS)
    bench.end("t2", "t4", now_ns=3 * MS)
    assert [effect.ticket_id for effect in bench.machine.expire(2_010 * MS)] == ["t1", "t3"]
    assert bench.machine.deadline_ns() is None


def test_window_ends_stay_bounded_however_many_tickets_end_early(values):
    bench = Bench(values, tickets_max=4, unanswered_max=1_000, load_burst_ns=10**15)
    bench.arrive(demand=values.with_demand(window_ns=1_000 * MS))  # Stays open, in front of all that end.
    for _ in range(100):
        effect = bench.arrive()
        assert isinstance(effect, Admit)
        bench.end(effect.ticket_id)
    assert len(bench.machine._window_ends) <= 2 * 4
    assert bench.machine.deadline_ns() == 1_000 * MS
    assert bench.machine.expire(1_000 * MS) == [EndReservation("t1", "r0", PSI_BYTES)]


def test_a_ticket_that_ended_gives_no_device_time_back(values):
    bench = Bench(values, load_burst_ns=100 * MS)
    for _ in range(3):
        bench.arrive()
    bench.end("t1", "t2", "t3")
    assert bench.arrive().reason is DeclineReason.LOAD


def test_an_answer_that_comes_after_the_end_makes_room_for_the_next_pre_infer(values):
    bench = Bench(values, unanswered_max=1)
    bench.arrive()
    bench.end("t1")
    assert bench.arrive().reason is DeclineReason.TABLE_FULL, "it is still on its way"
    assert bench.answer("t1", Outcome.RESIDENT) == []
    assert isinstance(bench.arrive(), Admit)


def test_instances_have_bounds_of_their_own(bench):
    room = dict(device_budget_bytes=2 * PSI_BYTES)
    assert isinstance(bench.arrive(**room), Admit)
    assert isinstance(bench.arrive(instance_id="r1", **room), Admit)


def test_a_restarted_instance_starts_empty(bench):
    room = dict(device_budget_bytes=2 * PSI_BYTES)
    bench.arrive(**room)
    assert isinstance(bench.arrive(epoch=8, **room), Admit)


def test_declines_when_pre_infer_time_would_exceed_its_share(values):
    # One pre-infer takes 12.91 ms; a burst of 100 ms at half a device is 50 ms of it.
    bench = Bench(values, load_burst_ns=100 * MS)
    kinds = [type(bench.arrive()) for _ in range(4)]
    assert kinds == [Admit, Admit, Admit, Decline]
    assert bench.arrive().reason is DeclineReason.LOAD


def test_load_share_is_split_among_triggers(values):
    # A quarter of the device each, and a burst of 20 ms times the square root of two; a pre-infer takes 12.91.
    bench = Bench(values, load_burst_ns=80 * MS)
    kinds = [type(bench.arrive(trigger_count=2)) for _ in range(3)]
    assert kinds == [Admit, Admit, Decline]
    assert bench.arrive(40 * MS, trigger_count=2).reason is DeclineReason.LOAD, "25.82 - 10 + 12.91 > 28.28"
    assert isinstance(bench.arrive(42 * MS, trigger_count=2), Admit)


def test_bursts_of_many_triggers_hold_a_long_pre_infer_each(values):
    # An even sixteenth of the burst would be 12.5 ms, and no second pre-infer would fit behind the first.
    bench = Bench(values, load_burst_ns=400 * MS)
    many = dict(trigger_count=16, device_budget_bytes=10**12)
    assert [type(bench.arrive(**many)) for _ in range(4)] == [Admit, Admit, Admit, Decline]


def test_load_share_refills_with_time(values):
    bench = Bench(values, load_burst_ns=100 * MS)
    for _ in range(4):
        bench.arrive()
    assert bench.arrive(2 * MS).reason is DeclineReason.LOAD
    assert isinstance(bench.arrive(4 * MS), Admit)  # 38.73 - 2 + 12.91 < 50


@pytest.mark.parametrize("outcome", [Outcome.RESIDENT, Outcome.JOINED, Outcome.DECLINED])
def test_device_time_that_was_not_spent_is_given_back(values, outcome):
    bench = Bench(values, load_burst_ns=100 * MS)
    for _ in range(3):
        bench.arrive()
    bench.answer("t1", outcome)
    assert isinstance(bench.arrive(), Admit)


@pytest.mark.parametrize("outcome", [Outcome.STARTED, Outcome.UNREACHABLE])
def test_device_time_that_may_have_been_spent_is_kept(values, outcome):
    bench = Bench(values, load_burst_ns=100 * MS)
    for _ in range(3):
        bench.arrive()
    bench.answer("t1", outcome)
    assert bench.arrive().reason is DeclineReason.LOAD


def test_an_append_is_charged_as_an_append(values):
    bench = Bench(values, load_burst_ns=100 * MS)
    for _ in range(3):
        bench.arrive()
    bench.answer("t1", Outcome.STARTED, production_ns=1 * MS)
    bench.answer("t2", Outcome.STARTED, production_ns=1_000 * MS)  # more than was charged: nothing to give back
    assert isinstance(bench.arrive(), Admit)
    assert bench.arrive().reason is DeclineReason.LOAD


def test_a_second_answer_gives_nothing_back(values):
    bench = Bench(values, load_burst_ns=100 * MS)
    for _ in range(3):
        bench.arrive()
    for _ in range(3):
        bench.answer("t1", Outcome.RESIDENT)
    assert isinstance(bench.arrive(), Admit)
    assert bench.arrive().reason is DeclineReason.LOAD


def test_a_pre_infer_longer_than_the_burst_runs_alone(values):
    bench = Bench(values, load_burst_ns=1 * MS)
    assert isinstance(bench.arrive(), Admit)
    assert bench.arrive(1 * MS).reason is DeclineReason.LOAD
    assert isinstance(bench.arrive(26 * MS), Admit)  # 12.91 ms at half a device


def test_empty_prefix_at_risk_is_declined(bench, values):
    demand = values.with_demand(prefix_tokens=1, candidate_count=5_000)
    assert bench.arrive(demand=demand).reason is DeclineReason.EMPTY_PREFIX


def test_empty_prefix_that_fits_is_not_at_risk(bench, values):
    assert isinstance(bench.arrive(demand=values.with_demand(prefix_tokens=1, candidate_count=1)), PassBy)


def test_declines_a_relay_that_saves_next_to_nothing(bench, values):
    demand = values.with_demand(prefix_tokens=50, candidate_count=5_000)
    assert bench.arrive(demand=demand).reason is DeclineReason.NO_GAIN


def test_too_late_when_joining_would_not_beat_full_inference(bench, values):
    assert bench.arrive(demand=values.with_demand(time_to_rank_ns=0)).reason is DeclineReason.TOO_LATE


def test_late_pre_infer_is_admitted_when_joining_beats_full_inference(bench, values):
    assert isinstance(bench.arrive(demand=values.with_demand(time_to_rank_ns=10 * MS)), Admit)


def test_late_pre_infer_is_admitted_when_waiting_for_it_still_holds_the_budget(values):
    # At risk by the margin of error alone: full inference is expected to take 14.01 ms, at the quantile 15.4.
    instance = dict(cost=replace(values.cost, relative_error=0.1))
    # Not begun when the rank comes: 12.91 ms to wait for, and 1.2 on psi.
    for budget_ns, reason in ((14_110_000, None), (14_109_999, DeclineReason.TOO_LATE)):
        demand = values.with_demand(time_to_rank_ns=0, rank_budget_ns=budget_ns)
        assert refusal(Bench(values).arrive(demand=demand, **instance)) is reason


def test_a_backlog_counts_against_the_budget_that_a_late_pre_infer_has_to_hold(values):
    demand = values.with_demand(time_to_rank_ns=15 * MS, rank_budget_ns=14_500_000)
    cost = replace(values.cost, relative_error=0.1)
    # Of 12.91 ms and what is queued, 15 pass until the rank, which takes 1.2 on psi.
    for backlog_ns, reason in ((15_390_000, None), (15_390_001, DeclineReason.TOO_LATE)):
        assert refusal(Bench(values).arrive(demand=demand, cost=cost, backlog_ns=backlog_ns)) is reason


@pytest.mark.parametrize("relative_error", [0.0, 0.5, 2.0])
def test_too_late_weighs_expected_times_without_the_margin_of_error(values, relative_error):
    # Joining takes 14.11 ms from the start of the pre-infer, full inference 14.01.
    cost = replace(values.cost, relative_error=relative_error)
    for time_to_rank_ns, reason in ((100_000, DeclineReason.TOO_LATE), (100_001, None)):
        demand = values.with_demand(time_to_rank_ns=time_to_rank_ns)
        assert refusal(Bench(values).arrive(demand=demand, cost=cost)) is reason


def test_backlog_can_make_a_pre_infer_too_late(bench):
    assert isinstance(bench.arrive(backlog_ns=0), Admit)
    assert bench.arrive(backlog_ns=200 * MS).reason is DeclineReason.TOO_LATE


def test_declines_when_ticket_table_is_full(values):
    bench = Bench(values, tickets_max=1)
    bench.arrive()
    assert bench.arrive().reason is DeclineReason.TABLE_FULL


def test_declines_while_too_many_pre_infers_are_unanswered(values):
    bench = Bench(values, unanswered_max=1)
    bench.arrive()
    assert bench.arrive().reason is DeclineReason.TABLE_FULL
    bench.answer("t1", Outcome.STARTED)
    assert isinstance(bench.arrive(), Admit)


def test_an_instance_beyond_the_table_gets_no_ticket_while_all_others_hold_some(values):
    bench = Bench(values, accounts_max=2)
    bench.arrive(instance_id="a"), bench.arrive(instance_id="b")
    assert bench.arrive(instance_id="c").reason is DeclineReason.TABLE_FULL
    assert isinstance(bench.arrive(2_000 * MS, instance_id="c"), Admit)


def test_instances_long_unseen_are_forgotten(bench):
    bench.arrive()
    bench.machine.expire(60_000 * MS)
    assert bench.machine.holdings.accounts == 0


def test_risk_counts_every_request_as_if_it_ran_in_full(bench, values):
    # 60 ranks a second of 14 ms: load 0.84 if all ran in full.
    busy = dict(rank_rate_hz=60.0)
    short = values.with_demand(prefix_tokens=129, candidate_count=10, delta_tokens=1, rank_budget_ns=40 * MS)
    assert isinstance(bench.arrive(demand=short, **busy), PassBy)
    for _ in range(200):
        bench.arrive(**busy)
    effect = bench.arrive(demand=short, **busy)
    assert effect.assessment.queue_ns > 0 and effect.assessment.is_at_risk


def test_foresight_counts_nothing(bench, values):
    before = bench.machine.foresee(values.demand, values.instance)
    assert before.is_at_risk
    assert bench.machine.holdings.accounts == 0
    assert before == bench.arrive().assessment


def test_same_events_same_effects(values):
    def play():
        bench = Bench(values, load_burst_ns=100 * MS)
        steps = [(i * MS, 500 + 200 * (i % 7)) for i in range(200)]
        return [bench.arrive(now, demand=replace(values.demand, prefix_tokens=n)) for now, n in steps]

    assert play() == play()
