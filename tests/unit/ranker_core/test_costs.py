"""The cost model that is published: it follows what jobs at work take, and keeps quiet about noise."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from relaygr.domain.cost import CostModel
from services.ranker.core.costs import (
    ERROR_STEP,
    EVERY,
    FACTOR_LEAST,
    FACTOR_MOST,
    FACTOR_STEP,
    WINDOW,
    CostWatch,
)

MS = 1_000_000
ALONE = CostModel(
    fixed_ns=100_000.0,
    token_ns=1_000.0,
    pair_ns=2.0,
    reload_fixed_ns=3_000_000.0,
    reload_byte_ns=0.5,
    relative_error=0.05,
    token_bytes=512,
    candidates_typical=100,
)
Jobs = Iterable[tuple[int, int]]


def feed(watch: CostWatch, jobs: Jobs) -> list[CostModel]:
    """What is published while these end, each expected and measured so long."""
    return [model for job in jobs if (model := watch.ended(*job)) is not None]


def jobs_of(factor: float, count: int = EVERY, expected_ns: int = 10 * MS) -> list[tuple[int, int]]:
    return [(expected_ns, int(factor * expected_ns))] * count


def factor_of(model: CostModel) -> float:
    return model.token_ns / ALONE.token_ns


def test_the_factor_is_the_sum_measured_over_the_sum_expected() -> None:
    short, long = [(MS, MS)] * (EVERY // 2), [(10 * MS, 20 * MS)] * (EVERY // 2)
    (model,) = feed(CostWatch(ALONE), short + long)
    # Not 1.5, the mean of the two: a job counts as much as it takes.
    assert factor_of(model) == pytest.approx(21 / 11)


def test_nothing_is_published_before_enough_jobs_have_ended() -> None:
    watch = CostWatch(ALONE)
    assert feed(watch, jobs_of(3.0, EVERY - 1)) == []
    assert watch.published is ALONE
    (model,) = feed(watch, jobs_of(3.0, 1))
    assert watch.published is model and factor_of(model) == pytest.approx(3.0)
    assert feed(watch, jobs_of(2.0, EVERY - 1)) == [], "and then not before as many again"
    assert len(feed(watch, jobs_of(2.0, 1))) == 1


@pytest.mark.parametrize("side", [-1, 1])
def test_a_factor_that_differs_by_less_than_its_step_is_not_published(side: int) -> None:
    assert feed(CostWatch(ALONE), jobs_of(1 + side * 0.9 * FACTOR_STEP)) == []
    assert len(feed(CostWatch(ALONE), jobs_of(1 + side * 1.1 * FACTOR_STEP))) == 1


def test_small_changes_add_up_until_they_are_a_step_from_what_was_published() -> None:
    watch = CostWatch(ALONE)
    assert feed(watch, jobs_of(1.03)) == []
    (model,) = feed(watch, jobs_of(1.07))
    assert factor_of(model) == pytest.approx(1.05)
    assert feed(watch, jobs_of(1.05)) == [], "it is known by now"


def test_an_error_that_changes_by_its_step_is_published_with_the_factor_of_then() -> None:
    def scattered(by: float) -> list[tuple[int, int]]:
        return [job for sign in (-1, 1) for job in jobs_of(1 + sign * by, EVERY // 2)]

    assert feed(CostWatch(ALONE), scattered(ALONE.relative_error + 0.9 * ERROR_STEP)) == []
    (model,) = feed(CostWatch(ALONE), scattered(ALONE.relative_error + 1.1 * ERROR_STEP))
    assert factor_of(model) == pytest.approx(1.0)
    assert model.relative_error == pytest.approx(ALONE.relative_error + 1.1 * ERROR_STEP)


def test_the_error_is_that_of_the_longer_half() -> None:
    # A thousandth of the time, and eight times as long as foretold.
    short, long = jobs_of(8.0, EVERY // 2, expected_ns=10_000), jobs_of(2.0, EVERY // 2)
    (model,) = feed(CostWatch(ALONE), [job for pair in zip(short, long, strict=True) for job in pair])
    assert model.relative_error == ALONE.relative_error


def test_the_error_is_a_quantile_that_one_odd_job_in_a_hundred_does_not_change() -> None:
    def window(odd: int) -> list[tuple[int, int]]:
        # Among jobs of many lengths; the odd ones last, so that the last look sees them all.
        even = [(10 * MS + n, 10 * MS + n) for n in range(WINDOW - odd)]
        return even + [(20 * MS + n, 50 * MS) for n in range(odd)]

    assert feed(CostWatch(ALONE), window(odd=2)) == []
    assert len(feed(CostWatch(ALONE), window(odd=6))) == 1


def test_the_error_is_never_less_than_what_was_measured_alone() -> None:
    uncertain = replace(ALONE, relative_error=0.4)
    (model,) = feed(CostWatch(uncertain), jobs_of(2.0))
    assert model == uncertain.scaled(2.0, 0.4)


@pytest.mark.parametrize(("measured", "published"), [(100.0, FACTOR_MOST), (0.01, FACTOR_LEAST)])
def test_the_factor_is_clamped_and_the_error_says_that_it_is_off(measured: float, published: float) -> None:
    (model,) = feed(CostWatch(ALONE), jobs_of(measured))
    assert factor_of(model) == published
    assert model.relative_error == pytest.approx(abs(measured / published - 1))


@pytest.mark.parametrize("expected_ns", [0, -1])
def test_a_job_of_no_expected_time_means_nothing(expected_ns: int) -> None:
    watch = CostWatch(ALONE)
    assert feed(watch, [(expected_ns, 1_000 * MS)] * 2 * EVERY) == []
    assert feed(watch, jobs_of(2.0, EVERY - 1)) == []
    (model,) = feed(watch, jobs_of(2.0, 1))
    assert factor_of(model) == pytest.approx(2.0)


def test_jobs_long_past_are_forgotten() -> None:
    watch = CostWatch(ALONE)
    feed(watch, jobs_of(2.0, WINDOW))
    published = feed(watch, jobs_of(1.0, WINDOW))
    assert published[-1] == ALONE.scaled(1.0, ALONE.relative_error)


def test_each_model_is_scaled_from_what_was_measured_alone() -> None:
    watch = CostWatch(ALONE)
    for factor in (2.0, 3.0):
        (*_, model) = feed(watch, jobs_of(factor, WINDOW))
        assert model == ALONE.scaled(factor, ALONE.relative_error)


def test_scaling_multiplies_what_is_computed_and_leaves_reloads_alone() -> None:
    scaled = ALONE.scaled(2.0, 0.3)
    assert scaled.extend_ns(300, 700) == 2 * ALONE.extend_ns(300, 700)
    assert scaled.rank_ns(100, 20, 700) == 2 * ALONE.rank_ns(100, 20, 700)
    assert scaled.full_ns(100, 20, 700) == 2 * ALONE.full_ns(100, 20, 700)
    assert scaled.reload_ns(700) == ALONE.reload_ns(700)
    assert scaled.upper_ns(1_000) == 1_300
    assert (scaled.token_bytes, scaled.candidates_typical) == (ALONE.token_bytes, ALONE.candidates_typical)
