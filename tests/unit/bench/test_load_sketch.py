"""First guesses: the sketch of full inference's queue, lengths read off a curve, and candidates of a request."""

import numpy as np
import pytest

from bench.load.alone import STEP_TOKENS, length_at
from bench.load.callers import candidates_of
from bench.load.ground import ITEMS
from bench.load.sketch import full_rate_hz, relay_bound_hz
from tests.unit.bench.load_requests import request

BUDGET_MS = 50.0


def rate(service_ms: float, servers: int = 2, quantile: float = 0.99) -> float:
    return full_rate_hz(service_ms, BUDGET_MS, servers, quantile)


def test_a_service_that_takes_longer_than_the_budget_holds_no_rate():
    assert rate(50.0) == rate(80.0) == 0.0
    assert rate(49.0) > 0.0


def test_longer_services_hold_lower_rates_and_none_more_than_its_servers_could():
    rates = [rate(service_ms) for service_ms in (5.0, 10.0, 20.0, 30.0, 40.0, 48.0)]
    assert rates == sorted(rates, reverse=True) and len(set(rates)) == 6
    assert rates[0] < 2 * 1000 / 5.0


def test_two_servers_hold_more_than_twice_the_rate_of_one():
    for service_ms in (15.0, 25.0, 35.0):
        assert rate(service_ms, servers=2) > 2 * rate(service_ms, servers=1)


def test_a_stricter_quantile_holds_less():
    assert rate(25.0, quantile=0.999) < rate(25.0, quantile=0.99) < rate(25.0, quantile=0.9)


def test_the_sketch_agrees_with_the_queue_that_searches_are_tried_on():
    # tests/unit/bench/test_search.py holds these limits of the same queue to 3 %.
    assert rate(15.0) == pytest.approx(82.8, rel=0.06)
    assert rate(8.0) == pytest.approx(201.3, rel=0.06)


def test_the_relays_bound_is_devices_that_are_never_idle():
    assert relay_bound_hz(20.0, rankers=2) == 100.0


def test_a_length_is_read_off_a_parabola():
    def took_ms(tokens: float) -> float:
        return 2.0 + 0.01 * tokens + 1e-5 * tokens**2

    seen = [(tokens, took_ms(tokens)) for tokens in (640, 1000, 1600)]
    for wanted in (800, 1200, 1400, 2000):
        found = length_at(took_ms(wanted), seen)
        assert abs(found - wanted) <= STEP_TOKENS and found % STEP_TOKENS == 0


def test_two_points_are_read_off_a_line():
    assert length_at(15.0, [(1000, 10.0), (2000, 20.0)]) == pytest.approx(1500, abs=STEP_TOKENS)


def test_candidates_are_the_requests_own_and_the_same_every_time():
    one = candidates_of(request(5, user=7)).item_ids
    assert (one == candidates_of(request(5, user=7, visit=3)).item_ids).all()
    assert len(set(one.tolist())) == 256 and one.min() >= 0 and one.max() < ITEMS
    assert len(candidates_of(request(5, candidates=32)).item_ids) == 32


def test_requests_of_one_user_ask_for_other_candidates_each_time():
    firsts = [int(candidates_of(request(index, user=3)).item_ids[0]) for index in range(2000)]
    assert len(set(firsts)) == 2000
    assert np.ptp(firsts) > 0.9 * ITEMS
