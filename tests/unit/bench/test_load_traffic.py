"""What is drawn: arrivals, users who come back, lengths and stages."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bench.load.profile import load_profile
from bench.load.traffic import Plan, PlannedRequest, arrival_times_s, plan, visit_chances

PROFILE = load_profile("default")
RATE_HZ = 40.0


def wanted(traffic: dict[str, Any] | None = None, **changes: Any) -> Plan:
    values: dict[str, Any] = {
        "traffic": replace(PROFILE.traffic, **(traffic or {})),
        "stages": PROFILE.stages,
        "rate_hz": RATE_HZ,
        "seed": 7,
        "first_user": 0,
        "users": PROFILE.model.users,
        "tokens": 1024,
    }
    return Plan(**(values | changes))


def counted(requests: list[PlannedRequest]) -> list[PlannedRequest]:
    return [request for request in requests if request.is_counted]


@pytest.mark.parametrize("arrivals", ["poisson", "bursty"])
def test_arrivals_come_in_order_at_the_mean_rate(arrivals: str):
    traffic = replace(PROFILE.traffic, arrivals=arrivals)
    times_s = arrival_times_s(traffic, RATE_HZ, 40_000, np.random.default_rng(1))
    assert times_s[0] >= 0 and (np.diff(times_s) >= 0).all()
    # Of so many arrivals the mean wanders by half a percent; 3 % is out of reach.
    assert len(times_s) / times_s[-1] == pytest.approx(RATE_HZ, rel=0.03)


def test_gaps_of_poisson_arrivals_are_exponential():
    gaps_s = np.diff(arrival_times_s(PROFILE.traffic, RATE_HZ, 40_000, np.random.default_rng(1)))
    assert gaps_s.std() == pytest.approx(gaps_s.mean(), rel=0.03)
    assert (gaps_s > 2 / RATE_HZ).mean() == pytest.approx(np.exp(-2), rel=0.05)


def test_bursts_have_the_factors_rate_for_their_share_of_the_time_and_the_rest_what_is_left():
    traffic = replace(PROFILE.traffic, arrivals="bursty")
    times_s = arrival_times_s(traffic, RATE_HZ, 40_000, np.random.default_rng(1))
    period_s = traffic.burst_s / traffic.burst_share
    is_burst = times_s % period_s < traffic.burst_s
    seconds = times_s[-1]
    assert is_burst.sum() / (seconds * traffic.burst_share) == pytest.approx(RATE_HZ * traffic.burst_factor, rel=0.05)
    left_hz = RATE_HZ * (1 - traffic.burst_factor * traffic.burst_share) / (1 - traffic.burst_share)
    assert (~is_burst).sum() / (seconds * (1 - traffic.burst_share)) == pytest.approx(left_hz, rel=0.05)


@pytest.mark.parametrize("mean", [1.0, 1.5, 2.5, 5.0])
def test_chances_of_visits_are_zipfs_with_the_wanted_mean(mean: float):
    chances = visit_chances(mean, 16)
    counts = np.arange(1, 17)
    assert chances.sum() == pytest.approx(1) and (counts * chances).sum() == pytest.approx(mean)
    if mean > 1:
        exponents = -np.log(chances[1:] / chances[0]) / np.log(counts[1:])
        assert exponents == pytest.approx(np.full(15, exponents[0]))


def test_a_mean_that_no_exponent_gives_is_refused():
    with pytest.raises(ValueError, match=r"visits_most of 4 is too small for 2\.50"):
        visit_chances(2.5, 4)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
def test_the_share_of_returns_is_the_profiles_once_the_warm_up_is_over(share: float):
    shares = []
    for seed in range(10):
        requests = counted(plan(wanted({"return_share": share}, seed=seed)))
        shares.append(float(np.mean([request.visit > 0 for request in requests])))
    # A user with many visits returns after the trace's end too, so a little is missing.
    assert share - 0.05 <= np.mean(shares) <= share + 0.02


def test_the_warm_up_comes_first_and_is_not_counted():
    requests = plan(wanted())
    warm = round(PROFILE.traffic.warmup_s * RATE_HZ)
    assert [request.is_counted for request in requests] == [False] * warm + [True] * PROFILE.traffic.requests
    assert [request.index for request in requests] == list(range(len(requests)))


def test_a_user_returns_not_before_the_least_gap_with_a_history_that_grew():
    last: dict[int, PlannedRequest] = {}
    returns = 0
    for request in plan(wanted()):
        before = last.get(request.user)
        if before:
            returns += 1
            assert request.visit == before.visit + 1 < PROFILE.traffic.visits_most
            assert request.arrives_ns - before.arrives_ns >= int(PROFILE.traffic.return_gap_least_s * 1e9)
            assert 1 <= request.behaviours - before.behaviours <= PROFILE.traffic.append_most
        else:
            assert request.visit == 0
        last[request.user] = request
    assert returns > 500


@pytest.mark.parametrize("rate_hz", [8.0, 40.0])
def test_newcomers_come_apart_from_how_arrivals_bunch(rate_hz: float):
    """A burst of arrivals is no burst of newcomers: theirs is a Poisson process, whose counts vary by their mean."""
    dispersions = []
    for seed in range(12):
        requests = counted(plan(wanted(seed=seed, rate_hz=rate_hz)))
        times_s = np.array([request.arrives_ns / 1e9 for request in requests if request.visit == 0])
        counts = np.bincount(((times_s - times_s[0]) / (4.0 / rate_hz)).astype(int))
        dispersions.append(counts.var() / counts.mean())
    assert 0.9 <= np.mean(dispersions) <= 1.1, dispersions


@pytest.mark.parametrize("rate_hz", [8.0, 40.0])
def test_gaps_between_visits_are_the_profiles(rate_hz: float):
    gaps_s, last = [], {}
    for seed in range(12):
        for request in plan(wanted(seed=seed, rate_hz=rate_hz)):
            if request.visit:
                gaps_s.append((request.arrives_ns - last[seed, request.user]) / 1e9)
            last[seed, request.user] = request.arrives_ns
    traffic = PROFILE.traffic
    for quantile, deviations in ((0.1, -1.2816), (0.5, 0.0), (0.9, 1.2816)):
        gap_s = traffic.return_gap_least_s + traffic.return_gap_s * np.exp(deviations * traffic.return_gap_spread)
        # Those that would end after the trace are missing, and when one comes is up to the arrivals.
        assert np.quantile(gaps_s, quantile) == pytest.approx(gap_s, rel=0.15)


@pytest.mark.parametrize("tokens", [64, 1024])
def test_one_length_for_all_is_the_mean_length(tokens: int):
    for seed in range(5):
        behaviours = [request.behaviours for request in plan(wanted(seed=seed, tokens=tokens))]
        assert np.mean(behaviours) + 1 == pytest.approx(tokens, abs=0.51)


def test_lengths_of_a_mix_are_log_normal_within_their_bounds():
    lengths = PROFILE.lengths
    requests = plan(wanted({"return_share": 0.0, "requests": 2500, "warmup_s": 0.0}, tokens=lengths))
    tokens = np.array([request.behaviours + 1 for request in requests])
    assert lengths.least_tokens <= tokens.min() and tokens.max() == lengths.most_tokens
    assert np.median(tokens) == pytest.approx(lengths.median_tokens, rel=0.1)
    below = (tokens < lengths.median_tokens * np.exp(-lengths.spread)).mean()
    assert below == pytest.approx(0.159, abs=0.03)


def test_the_same_seed_draws_the_same_trace_and_another_another():
    assert plan(wanted(seed=3)) == plan(wanted(seed=3))
    one, other = plan(wanted(seed=3)), plan(wanted(seed=4))
    assert all(a.arrives_ns != b.arrives_ns for a, b in zip(one, other, strict=True))


def test_users_begin_where_they_are_free_and_are_taken_round():
    first = PROFILE.model.users - 10
    at_zero, moved = plan(wanted()), plan(wanted(first_user=first))
    assert [(first + request.user) % PROFILE.model.users for request in at_zero] == [one.user for one in moved]
    assert {one.user for one in moved} >= {first, PROFILE.model.users - 1, 0}


def test_more_users_than_there_are_are_refused():
    needed = len({request.user for request in plan(wanted())})
    assert {request.user for request in plan(wanted(users=needed))} == set(range(needed))
    with pytest.raises(ValueError, match=f"needs {needed} users, there are {needed - 1}"):
        plan(wanted(users=needed - 1))


def test_stages_without_spread_take_the_profiles_time_and_ranking_is_due_after_them():
    for request in plan(wanted()):
        assert (request.retrieval_ns, request.pre_processing_ns) == (40_000_000, 20_000_000)
        assert request.due_ns == request.arrives_ns + 60_000_000


def test_stages_with_spread_keep_mean_and_deviation():
    requests = plan(wanted(stages=replace(PROFILE.stages, spread=0.25)))
    for field, mean_ms in (("retrieval_ns", 40.0), ("pre_processing_ns", 20.0)):
        times_ms = np.array([getattr(request, field) for request in requests]) / 1e6
        assert times_ms.min() > 0
        assert times_ms.mean() == pytest.approx(mean_ms, rel=0.04)
        assert times_ms.std() == pytest.approx(0.25 * mean_ms, rel=0.1)


def test_behaviours_that_land_during_the_stages_are_uniform_up_to_the_most():
    deltas = np.bincount([request.delta for request in plan(wanted())])
    assert len(deltas) == PROFILE.traffic.delta_most + 1
    assert deltas.min() > 0.8 * deltas.mean()
