"""The search against queues whose limit is known."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.load.search import LengthSearch, MonotoneSearch, RateSearch, TooNoisy, Verdict
from tests.unit.bench.queue_model import late_flags, probe, run

# Service time in s -> the rate at which 1 % of requests take longer than 50 ms in the long run.
LIMITS_HZ = {0.015: 82.8, 0.008: 201.3}
SEEDS = 100


def verdict(share: float, *, errors: int = 0, is_disturbed: bool = False) -> Verdict:
    return Verdict(round(share * 1000), 1000, errors, 0, is_disturbed)


def curve(limit: float, slope: float) -> Callable[[float], Verdict]:
    """Counts without chance."""
    return lambda position: verdict(1 / (1 + 99 * (limit / position) ** slope))


@pytest.mark.parametrize("service_s", LIMITS_HZ)
def test_the_known_limits_are_those_of_the_queue(service_s: float):
    random = np.random.default_rng(11)
    for factor, is_below in ((0.97, True), (1.03, False)):
        flags = late_flags(factor * LIMITS_HZ[service_s], service_s, 200_000, random)
        assert (sum(flags) / len(flags) <= 0.01) is is_below


@pytest.mark.parametrize("service_s", LIMITS_HZ)
def test_finds_the_limit_with_few_probes_and_an_interval_that_covers_it(service_s: float):
    limit_hz = LIMITS_HZ[service_s]
    near = probes = covered = 0
    for seed in range(SEEDS):
        random = np.random.default_rng(seed)
        guess_hz = limit_hz * math.exp(random.uniform(-0.3, 0.3))
        search = RateSearch(guess_hz, least=limit_hz / 8, most=limit_hz * 8)
        found = run(search, lambda rate_hz, random=random: probe(rate_hz, service_s, random))
        assert found.value and found.low and found.high and found.is_bounded
        assert found.low <= found.value <= found.high
        near += abs(found.value / limit_hz - 1) < 0.1
        covered += found.low <= limit_hz <= found.high
        probes += found.probes
    assert near >= 0.9 * SEEDS
    assert covered >= 0.85 * SEEDS
    assert probes <= 7.5 * SEEDS


@pytest.mark.parametrize("slope", [3, 7, 20])
@pytest.mark.parametrize("off", [0.3, 0.8, 1.0, 1.2, 4.0])
def test_without_chance_the_value_is_within_the_tolerance_below_the_limit(slope: float, off: float):
    found = run(RateSearch(100 * off, least=1, most=1000, probes_max=20), curve(100, slope))
    # Counts are whole: 10.5 of 1,000 round down and still hold.
    assert found.value and 100 / 1.061 <= found.value <= 100 * 1.055 ** (3 / slope)
    assert found.crossing and found.value <= found.crossing <= min(found.failed_probe_rates)
    assert found.probes <= 12


def test_begins_with_the_guess_and_asks_the_same_until_it_is_answered():
    search = RateSearch(10, least=1, most=100)
    assert search.next() == search.next() == 10


def test_a_disturbed_probe_is_repeated_and_does_not_count():
    search = RateSearch(10, least=1, most=100)
    search.observe(10, verdict(0.5, is_disturbed=True))
    assert search.next() == 10
    found = search.result()
    assert (found.probes, found.disturbed_probes, found.failed_probe_rates) == (0, 1, [])


def test_gives_up_when_one_probe_stays_disturbed_but_not_when_they_are_apart():
    search = RateSearch(10, least=1, most=100, disturbed_max=3)
    for _ in range(3):
        search.observe(10, verdict(0, is_disturbed=True))
    search.observe(10, verdict(0))
    for _ in range(3):
        search.observe(13, verdict(0, is_disturbed=True))
    with pytest.raises(TooNoisy, match="4 times"):
        search.observe(13, verdict(0, is_disturbed=True))


def test_the_end_to_end_limit_and_errors_fail_a_rate_alone():
    for failing in (Verdict(0, 1000, 0, 11, False), Verdict(0, 1000, 1, 0, False), Verdict(11, 1000, 0, 0, False)):
        search = RateSearch(10, least=1, most=100)
        search.observe(10, failing)
        asked = search.next()
        assert search.result().failed_probe_rates == [10] and asked is not None and asked < 10
    search.observe(5, Verdict(10, 1000, 0, 10, False))
    assert search.result().value == 5


def test_a_rate_above_a_failed_one_is_never_the_value():
    search = RateSearch(10, least=1, most=100, probes_max=3)
    for rate, share in ((8, 0.0), (10, 0.02), (12, 0.0)):
        search.observe(rate, verdict(share))
    assert search.result().value == 8


def test_a_rate_that_failed_by_chance_is_asked_again_and_the_pooled_count_decides():
    search = RateSearch(10, least=1, most=100)
    for rate, share in ((9.6, 0.004), (10, 0.012), (10.6, 0.005), (11, 0.03)):
        search.observe(rate, verdict(share))
    assert search.result().value == 9.6
    asked = search.next()
    assert asked == 10
    search.observe(asked, verdict(0.006))
    assert search.result().value == 10.6


def test_an_end_near_the_limit_is_repeated_and_a_flip_moves_the_bracket():
    search = RateSearch(10, least=1, most=100)
    for rate, share in ((10, 0.009), (10.5, 0.013), (10, 0.017)):
        search.observe(rate, verdict(share))
    assert search.result().value is None
    asked = search.next()
    assert asked is not None and asked < 10


def test_the_most_that_holds_is_no_bound():
    found = run(RateSearch(50, least=1, most=100), lambda rate: verdict(0))
    assert (found.value, found.is_bounded, found.high) == (100, False, None)
    assert found.low is not None and found.low <= 100


def test_when_even_the_least_fails_there_is_no_value():
    found = run(RateSearch(2, least=1, most=100), lambda rate: verdict(0.9))
    assert (found.value, found.crossing, found.low, found.high) == (None, None, None, 1)


def test_the_longest_history_is_a_whole_number_of_steps():
    asked: list[float] = []

    def answer(tokens: float) -> Verdict:
        asked.append(tokens)
        return curve(3000, 9)(tokens)

    found = run(LengthSearch(2000, least=64, most=8190, step_tokens=16), answer)
    assert all(tokens % 16 == 0 for tokens in asked)
    assert found.value and 3000 / 1.07 <= found.value <= 3016


def test_histories_one_step_apart_are_near_enough():
    found = run(LengthSearch(64, least=16, most=8192, step_tokens=16), curve(100, 9))
    assert found.value == 96 and min(found.failed_probe_rates) == 112


shares = st.sampled_from([0.0, 0.005, 0.01, 0.011, 0.03, 0.5, 1.0])


@settings(max_examples=60, deadline=None)
@given(
    answers=st.lists(st.tuples(shares, st.booleans()), min_size=40, max_size=40),
    guess=st.floats(0.01, 1e4),
    tolerance=st.sampled_from([1e-4, 0.06, 0.5]),
    is_length=st.booleans(),
)
def test_every_search_ends_and_its_value_held_below_every_failed_rate(
    answers: list[tuple[float, bool]], guess: float, tolerance: float, is_length: bool
):
    search: MonotoneSearch = RateSearch(guess, least=0.5, most=500, tolerance=tolerance, probes_max=12)
    if is_length:
        search = LengthSearch(guess, least=16, most=500, tolerance=tolerance, probes_max=12)
    pooled: dict[float, list[Verdict]] = {}
    asked = 0
    while (position := search.next()) is not None:
        assert 0.5 <= position <= 500 and asked < 12
        share, has_error = answers[asked]
        asked += 1
        answer = verdict(share, errors=int(has_error))
        pooled.setdefault(position, []).append(answer)
        search.observe(position, answer)
    value = search.result().value
    holds = {
        position: not any(one.errors for one in found) and sum(one.late for one in found) <= 10 * len(found)
        for position, found in pooled.items()
    }
    assert value is None or holds[value]
    failed = [position for position, is_held in holds.items() if not is_held]
    assert value is None or all(value < position for position in failed)
    if value is None:
        assert failed and not any(is_held and position < min(failed) for position, is_held in holds.items())
