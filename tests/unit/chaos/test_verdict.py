"""The checker finds what it is there for: a wrong score, a lost request, an error too late, a slow recovery."""

import numpy as np

from tests.chaos.scenario import Ending, Holds
from tests.unit.chaos.requests import COUNT, END_NS, EVERY_NS, FAULT_NS, MS, failed, history, judged

FENCE = Holds(errors=Ending.FENCE)
DURING, LATER, AFTERWARDS = FAULT_NS // EVERY_NS + 1, FAULT_NS // EVERY_NS + 40, END_NS // EVERY_NS + 40


def test_a_history_without_fault_breaks_no_rule():
    verdict = judged(history(), Holds(recovery_s_max=0.1))
    assert verdict.broken == []
    assert (verdict.requests, verdict.answered, verdict.refused, verdict.recovery_s) == (COUNT, COUNT, 0, 0.0)
    assert verdict.p99_ms == {"before": 5.0, "during": 5.0, "after": 5.0}


def test_one_wrong_score_among_all_is_found():
    seen = history()
    scores = seen.calls[7].scores.copy()
    scores[1, 1] += 0.01
    seen.calls[7].scores = scores
    verdict = judged(seen)
    assert verdict.wrong_scores == 1 and verdict.broken


def test_scores_of_another_user_are_wrong():
    seen = history()
    seen.calls[7].scores = seen.calls[8].scores
    assert judged(seen).wrong_scores == 1


def test_a_score_that_is_no_number_is_wrong():
    seen = history()
    seen.calls[7].scores = np.full((3, 2), np.nan, np.float32)
    assert judged(seen).wrong_scores == 1


def test_scores_in_another_shape_are_wrong():
    seen = history()
    seen.calls[7].scores = seen.calls[7].scores[:2]
    assert judged(seen).wrong_scores == 1


def test_a_request_that_never_ended_is_unanswered():
    seen = history()
    seen.calls[7].scores, seen.calls[7].ended_ns = None, 0
    verdict = judged(seen)
    assert verdict.unanswered == 1 and verdict.broken


def test_a_request_that_was_never_sent_is_unanswered():
    seen = history()
    del seen.calls[7]
    assert judged(seen).unanswered == 1


def test_requests_that_were_due_after_the_loads_stop_are_not_asked_about():
    seen = history()
    seen.stop_ns = (COUNT - 5) * EVERY_NS
    for index in range(COUNT - 5, COUNT):
        del seen.calls[index]
    assert (judged(seen).unanswered, judged(seen).requests) == (0, COUNT - 5)


def test_an_answer_after_the_deadline_is_late():
    seen = history()
    seen.calls[7].ended_ns += 2_000 * MS
    verdict = judged(seen)
    assert verdict.late == 1 and verdict.broken
    seen.lag_ns = 1_000 * MS
    assert judged(seen).late == 0, "the callers themselves were held up for so long"


def test_an_error_breaks_the_rule_that_none_fails():
    seen = history()
    failed(seen.calls[DURING])
    verdict = judged(seen)
    assert verdict.refused == 1 and verdict.errors == {"Unreachable": 1} and verdict.broken


def test_errors_end_one_calls_deadline_after_the_fault():
    seen = history()
    failed(seen.calls[DURING])
    assert judged(seen, FENCE).broken == []
    failed(seen.calls[LATER])
    verdict = judged(seen, FENCE)
    assert verdict.errors_after_fence == 1 and verdict.broken


def test_errors_while_something_is_away_may_go_on_until_it_is_back():
    seen = history()
    failed(seen.calls[LATER])
    assert judged(seen, Holds(errors=Ending.RETURN)).broken == []
    failed(seen.calls[AFTERWARDS])
    verdict = judged(seen, Holds(errors=Ending.RETURN))
    assert verdict.errors_after_return == 1 and verdict.broken


def test_more_errors_than_requests_in_flight_are_found():
    seen, only = history(), Holds(errors=Ending.FENCE, is_only_in_flight=True)
    failed(seen.calls[FAULT_NS // EVERY_NS])
    assert judged(seen, only).broken == []
    failed(seen.calls[DURING + 2])
    failed(seen.calls[DURING + 3])
    assert judged(seen, only).broken


def test_recovery_is_where_two_good_seconds_begin():
    seen = history(returns=False)
    for index in range(DURING, DURING + 20):
        seen.calls[index].ended_ns += 500 * MS
    verdict = judged(seen, Holds(recovery_s_max=0.5))
    assert 1.0 <= verdict.recovery_s <= 1.1
    assert verdict.broken == [f"recovered after {verdict.recovery_s:.1f} s, not within 0.5 s"]
    assert judged(seen, Holds(recovery_s_max=1.5)).broken == []


def test_what_never_is_well_again_has_not_recovered():
    seen = history()
    for index in range(DURING, COUNT, 10):
        failed(seen.calls[index])
    verdict = judged(seen, Holds(errors=Ending.RETURN, recovery_s_max=3.0))
    assert verdict.recovery_s is None and len(verdict.broken) == 2


def test_what_is_too_slow_on_a_machine_that_holds_the_callers_up_is_told_and_not_judged():
    seen = history()
    for index in range(DURING, COUNT, 10):
        seen.calls[index].ended_ns += 500 * MS
    seen.lag_ns = 300 * MS
    verdict = judged(seen, Holds(recovery_s_max=3.0))
    assert (verdict.broken, len(verdict.unjudged)) == ([], 1)
    failed(seen.calls[LATER])
    assert judged(seen, Holds(recovery_s_max=3.0)).broken, "errors are judged all the same"


def test_what_is_fenced_counts_its_recovery_from_the_fault():
    seen = history()
    for index in range(DURING, DURING + 20):
        seen.calls[index].ended_ns += 500 * MS
    assert judged(seen, Holds(is_fenced=True)).recovery_s >= 1.0
    assert judged(seen, Holds()).recovery_s == 0.0


def test_a_tier_that_does_not_come_back_in_time_is_found():
    seen, back = history(), Holds(tier_back="DRAM", tier_back_s=1.0)
    assert judged(seen, back).broken
    seen.calls[END_NS // EVERY_NS + 2].tier = "DRAM"
    assert judged(seen, back).broken == []


def test_of_two_versions_either_may_answer_but_none_may_be_mixed():
    seen = history()
    seen.calls[7].scores = seen.calls[7].scores + 1
    assert judged(seen, versions=("1", "2")).wrong_scores == 0
    seen.calls[8].scores = np.concatenate([seen.calls[8].scores[:1], seen.calls[8].scores[1:] + 1])
    assert judged(seen, versions=("1", "2")).wrong_scores == 1


def test_an_old_version_that_still_answers_is_found():
    verdict = judged(history(), Holds(versions_after=frozenset({"2"})), ("1", "2"))
    assert verdict.broken == ["afterwards versions ['1'] answered"]
