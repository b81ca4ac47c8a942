"""Each kind of thing that can be left behind is found, and what is within the slack is not."""

from dataclasses import replace

import pytest

from bench.tiers.soak_samples import ProcessSample, Sample
from tests.chaos.leaks import FDS_SLACK, MEMORY_SLACK_MB, THREADS_SLACK, Rest, leaked, rest_of

ROUTER = ProcessSample("router", 1, 10.0, 80.0, 60.0, 50.0, 30, 8)
BEFORE = Rest({"router": ROUTER}, {"tickets": 0, "pins": 0}, (), frozenset({"segment", "segment.lock"}))


def after(**changes: object) -> Rest:
    return replace(BEFORE, processes={"router": replace(ROUTER, **changes)})


def test_nothing_is_found_where_nothing_is_left():
    grown = after(fds=30 + FDS_SLACK, threads=8 + THREADS_SLACK, anonymous_mb=50.0 + MEMORY_SLACK_MB)
    assert leaked(BEFORE, grown, {"corrupt": 0}, {}) == []


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"fds": 31 + FDS_SLACK}, "open files"),
        ({"threads": 9 + THREADS_SLACK}, "threads"),
        ({"anonymous_mb": 51.0 + MEMORY_SLACK_MB}, "MB"),
    ],
)
def test_what_a_surviving_process_keeps_is_found(changes, word):
    [text] = leaked(BEFORE, after(**changes), {}, {})
    assert text.startswith("router") and word in text


def test_a_process_that_was_started_again_is_not_compared_with_the_one_before():
    assert leaked(BEFORE, after(pid=2, fds=500), {}, {}) == []


def test_what_requests_still_hold_is_found():
    assert leaked(BEFORE, replace(BEFORE, held={"tickets": 1, "pins": 0}), {}, {}) == ["tickets holds 1"]


def test_a_counter_that_must_be_zero_is_found():
    assert leaked(BEFORE, BEFORE, {"race_rank_unknown": 1}, {}) == ["race_rank_unknown is 1"]


def test_a_segment_that_nobody_removed_is_found():
    shared = BEFORE.shared | {"older segment"}
    assert leaked(BEFORE, replace(BEFORE, shared=shared), {}, {}) == ["3 files in shared memory, 2 before"]


def test_a_process_that_has_ended_or_says_nothing_is_found():
    silent = replace(BEFORE, silent=("expander",))
    assert leaked(BEFORE, silent, {}, {"console": -9}) == ["console ended with code -9", "expander does not answer"]


def test_a_console_that_was_never_there_is_not_missed():
    sample = Sample(0.0, (ROUTER,), {}, {}, ("console", "ranker-1"))
    assert rest_of(sample, frozenset(), has_console=False).silent == ("ranker-1",)
    assert rest_of(sample, frozenset(), has_console=True).silent == ("console", "ranker-1")
