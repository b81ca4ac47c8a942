"""The price of what is left, and the misses that pay for it."""

from __future__ import annotations

from itertools import pairwise

import pytest

from services.trigger.core.price import FREE, Typical, price, used_of
from services.trigger.core.risk import ServiceTimes, miss_share

MS = 1_000_000
LEAST = 0.01


def test_room_costs_nothing_and_the_last_of_it_a_sure_miss():
    assert price(0.0, LEAST) == price(FREE - 1e-9, LEAST) == 0
    assert price(FREE, LEAST) == pytest.approx(LEAST)
    assert price(1.0, LEAST) == pytest.approx(1.0)


def test_the_price_only_rises_and_never_leaps_after_its_start():
    prices = [price(FREE + step * (1 - FREE) / 1_000, LEAST) for step in range(1_001)]
    assert all(later >= earlier for earlier, later in pairwise(prices))
    assert max(later - earlier for earlier, later in pairwise(prices)) < 0.01


@pytest.mark.parametrize("seed", range(5))
def test_what_is_taken_is_within_the_stated_factor_of_the_best_choice_in_hindsight(seed):
    # Worst first: cheap requests fill the bound before dear ones come. 1 + ln 100 = 5.6, and 4 for what is free.
    values = [LEAST * 1.1**step for step in range(48) for _ in range(200 + 37 * seed)]
    size, filled, taken = 1 / 1_000, 0.0, 0.0
    for value in values:
        if filled + size <= 1 and value >= price(filled, LEAST):
            filled, taken = filled + size, taken + value
    best = sum(sorted(values)[-1_000:])
    assert best / taken < 4 * 5.61
    first_come = sum(values[:1_000])
    assert taken > 4 * first_come


def test_a_bound_of_nothing_is_full():
    assert used_of(0, 0) == 1
    assert used_of(1, 4) == 0.25
    assert used_of(9, 4) == 1


def test_typical_is_the_plain_mean_at_first():
    typical = Typical()
    for size in (10, 20, 60):
        typical.observe(size, size * 2, size * 3)
    assert (typical.psi_bytes, typical.pre_infer_ns, typical.window_ns) == pytest.approx((30, 60, 90))


def test_misses_are_surer_the_longer_it_takes_the_less_there_is_and_the_more_ranks_come():
    times = ServiceTimes()
    times.observe(10 * MS)

    def missed(service_ms, budget_ms, rate_hz=0.0, error=0.1):
        return miss_share(service_ms * MS, error, budget_ms * MS, rate_hz, times)

    assert missed(10, 10) == pytest.approx(0.5)
    assert missed(20, 10) == pytest.approx(1.0)
    assert missed(10, 11) == pytest.approx(0.005, rel=0.02), "the error is the P99 of both sides"
    assert missed(10, 12) < missed(10, 11) < missed(10, 11, rate_hz=20) < missed(10, 11, rate_hz=60) < 1
    assert missed(10, 11, rate_hz=100) == pytest.approx(1.0), "more than the device can do"
    assert (missed(10, 10, error=0.0), missed(11, 10, error=0.0)) == (0.0, 1.0)
