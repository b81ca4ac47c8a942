"""Intervals against published values, exact sums, and repeated draws."""

import numpy as np
import pytest

from bench.load.estimate import Count, CrossingFit, bursts_of, dispersion_of, quantile_interval, wilson_interval


def test_wilson_interval_has_its_published_values():
    # Newcombe 1998, table I: 81 of 263 and 15 of 148; 0 of 20.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


def test_wilson_interval_of_nothing_says_nothing_and_dispersion_widens_it():
    assert wilson_interval(0, 0) == (0, 1)
    assert wilson_interval(20, 20)[1] == 1
    low, high = wilson_interval(10, 1000)
    wide = wilson_interval(10, 1000, dispersion=4)
    assert wide[0] < low and high < wide[1]
    assert wide == pytest.approx(wilson_interval(5, 500, dispersion=2))


def test_a_median_of_ten_lies_between_the_second_and_the_ninth():
    # P(X <= 1) = 11/1024 for X of ten fair coins: the interval of order statistics 2 and 9 holds 97.9 %.
    median, low, high = quantile_interval(list(range(1, 11)), 0.5)
    assert (median, low, high) == (5.5, 2, 9)


def test_a_quantile_with_too_few_values_beyond_has_no_upper_bound():
    _, low, high = quantile_interval(list(range(200)), 0.99)
    assert low is not None and high is None


def test_intervals_of_p99_cover_it_as_often_as_they_say():
    random = np.random.default_rng(3)
    found = [quantile_interval(random.exponential(1, 1000).tolist(), 0.99) for _ in range(400)]
    covered = sum(low is not None and high is not None and low <= np.log(100) <= high for _, low, high in found)
    assert 0.93 <= covered / 400 <= 0.995


def test_bursts_join_what_few_timely_requests_part():
    flags = [True, False, True] + [False] * 5 + [True] + [False] * 2
    assert bursts_of(flags, gap=4) == (2, 1)
    assert bursts_of(flags, gap=5) == (3,)
    assert bursts_of([False] * 9) == ()


def test_dispersion_comes_from_repeats_and_from_bursts():
    alone = dispersion_of([Count(1, 10, 1000)], 0.01)
    assert dispersion_of([Count(1, 2, 1000), Count(1, 30, 1000)], 0.01) > 1.5 * alone
    assert dispersion_of([Count(1, 10, 1000, (1,) * 10)] * 3, 0.01) < 0.5 * alone
    assert dispersion_of([Count(1, 12, 1000, (9, 1, 1, 1))], 0.01) > alone
    assert dispersion_of([Count(1, 500, 1000, (500,))], 0.01) == alone, (
        "far from the limit, no bursts are like those there"
    )


def test_the_fit_finds_the_crossing_of_counts_that_follow_it():
    shares = {80: 0.0021, 100: 0.01, 125: 0.0459}  # slope 7, limit at 100
    counts = [Count(rate, round(share * 1e5), 100_000) for rate, share in shares.items()]
    fit = CrossingFit(60, counts, 0.01)
    low, high = fit.interval()
    assert fit.expected() == pytest.approx(100, rel=0.01)
    assert 97 < low < 100 < high < 103
    assert fit.certainty(90, holds=True) > 0.99 > 0.01 > fit.certainty(90, holds=False)


def test_a_probe_far_from_the_limit_says_little_about_where_it_is():
    near = CrossingFit(100, [Count(100, 10, 1000)], 0.01).interval()
    far = CrossingFit(100, [Count(140, 600, 1000)], 0.01).interval()
    assert far[1] / far[0] > 1.3 * near[1] / near[0]
