"""Medians, rounds and shares of the peak, on numbers that are known."""

import pytest

from bench.engine import timing
from bench.engine.statistics import rounded, summary
from bench.engine.timing import Job, Rounds, interleaved


def test_a_summary_names_median_quartiles_and_count():
    found = summary([5.0, 1.0, 2.0, 4.0, 3.0])
    assert (found.count, found.median, found.least, found.p25, found.p75, found.most) == (5, 3, 1, 2, 4, 5)
    assert found.spread == pytest.approx(2 / 3)


def test_one_outlier_does_not_move_the_median():
    assert summary([1.0, 1.0, 1.0, 1.0, 900.0]).median == 1.0


def test_rounding_keeps_digits_that_matter():
    assert rounded(123456.0) == 123500.0 and rounded(0.00123456) == 0.001235


def test_the_peak_is_measured_before_and_after_each_job_of_each_round(monkeypatch):
    told = []
    monkeypatch.setattr(timing, "time_ms", lambda call: call() or 600.0)
    jobs = [Job(name, lambda name=name: told.append(name), 1) for name in ("a", "b")]
    measured = interleaved(jobs, lambda: told.append("peak") or 1.0, Rounds(least=2, most=2, seconds=0.0))
    warm_up, one_round = ["a", "b", "peak"], ["peak", "a", "peak", "b", "peak"]
    assert told == [*warm_up, *one_round, *one_round]
    assert measured.rounds == 2 and len(measured.series["a"].times_ms) == 2


def test_a_share_compares_a_job_with_the_peaks_around_it(monkeypatch):
    """2 GFLOP in 10 ms are 200 GFLOP/s: half of the mean of 300 and 500."""
    monkeypatch.setattr(timing, "time_ms", lambda call: 10.0)
    peaks = iter([1.0, 300.0, 500.0])
    measured = interleaved([Job("one", lambda: None, 2_000_000_000)], lambda: next(peaks), Rounds(1, 1, 0.0))
    assert measured.series["one"].shares == pytest.approx([0.5])


def test_short_jobs_are_repeated_within_a_round_and_long_ones_are_not(monkeypatch):
    times_ms = {"short": 1.0, "long": 900.0}
    monkeypatch.setattr(timing, "time_ms", lambda call: times_ms[call()])
    jobs = [Job(name, lambda name=name: name, 1) for name in times_ms]
    measured = interleaved(jobs, lambda: 1.0, Rounds(1, 1, 0.0))
    counts = {name: len(series.times_ms) for name, series in measured.series.items()}
    assert counts == {"short": timing.BATCH_CALLS_MAX, "long": 1}


@pytest.mark.parametrize(
    ("count", "elapsed_s", "is_enough"),
    [(2, 6.0, False), (3, 6.0, True), (5, 1.0, False), (9, 1.0, True), (1, 40.0, False), (2, 40.0, True)],
)
def test_rounds_end_after_the_least_when_their_time_is_over_and_long_ones_after_two(count, elapsed_s, is_enough):
    assert Rounds(least=3, most=9, seconds=5.0, long_s=20.0).is_enough(count, elapsed_s) == is_enough
