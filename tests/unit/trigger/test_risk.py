"""The risk test: cost model at its error quantile plus an as-if-full wait."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from services.trigger.core.risk import ServiceTimes, assess, psi_bytes, wait_quantile_ns

MS = 1_000_000


def _times(*full_ns):
    times = ServiceTimes()
    for value in full_ns:
        times.observe(value)
    return times


def test_wait_is_zero_when_an_arrival_seldom_finds_the_device_busy():
    # Load 0.009: fewer than one in a hundred waits, so the P99 wait is nothing.
    assert wait_quantile_ns(0.9, _times(10 * MS), 0.99, cap_ns=100 * MS) == 0


def test_wait_follows_the_stated_formula():
    times = _times(10 * MS)
    load, mean_wait_ns = 0.5, 50e-9 * (10 * MS) ** 2 / (2 * 0.5)
    expected_ns = mean_wait_ns / load * math.log(load / 0.01)
    assert wait_quantile_ns(50.0, times, 0.99, cap_ns=10**12) == pytest.approx(expected_ns, abs=2)


def test_wait_quantile_is_exact_for_exponential_service():
    # M/M/1: P(wait > t) = rho exp(-mu (1 - rho) t).
    times = ServiceTimes()
    times.mean_ns, times.mean_square_ns2 = 10.0 * MS, 2 * (10.0 * MS) ** 2
    wait_ns = wait_quantile_ns(60.0, times, 0.99, cap_ns=10**12)
    assert 0.6 * math.exp(-(1 - 0.6) * wait_ns / (10 * MS)) == pytest.approx(0.01, rel=1e-6)


def test_wait_is_capped_when_full_inference_for_all_would_saturate():
    assert wait_quantile_ns(100.0, _times(10 * MS), 0.99, cap_ns=7) == 7
    assert wait_quantile_ns(99.9, _times(10 * MS), 0.99, cap_ns=7) == 7


def test_wait_grows_with_the_rate():
    waits = [wait_quantile_ns(rate, _times(10 * MS), 0.99, cap_ns=10**12) for rate in (5, 20, 50, 80)]
    assert waits == sorted(waits) and waits[0] < waits[-1]


def test_spread_service_times_wait_longer_than_even_ones():
    even, spread = ServiceTimes(), ServiceTimes()
    even.mean_ns = spread.mean_ns = 10.0 * MS
    even.mean_square_ns2, spread.mean_square_ns2 = (10.0 * MS) ** 2, 4 * (10.0 * MS) ** 2
    assert wait_quantile_ns(50, even, 0.99, 10**12) < wait_quantile_ns(50, spread, 0.99, 10**12)


def test_service_times_move_towards_recent_requests():
    times = _times(10 * MS, *[20 * MS] * 400)
    assert times.mean_ns == pytest.approx(20 * MS, rel=0.01)
    assert times.mean_square_ns2 == pytest.approx((20 * MS) ** 2, rel=0.02)


def test_prediction_is_taken_at_the_cost_models_error_quantile(values):
    cost = replace(values.cost, relative_error=0.25)
    sharp, blurred = assess(values.demand, values.cost, 0), assess(values.demand, cost, 0)
    assert blurred.full_ns == int(sharp.full_ns * 1.25)


def test_at_risk_exactly_when_wait_and_service_exceed_the_budget(values):
    full_ns = assess(values.demand, values.cost, 0).full_ns
    fits = values.with_demand(rank_budget_ns=full_ns + 5)
    assert not assess(fits, values.cost, 5).is_at_risk
    assert assess(fits, values.cost, 6).is_at_risk


def test_psi_occupies_whole_pages(values):
    assert psi_bytes(1, values.cost) == psi_bytes(128, values.cost) == 128_000
    assert psi_bytes(129, values.cost) == 256_000
