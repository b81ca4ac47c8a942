"""For any jobs: what is published is the model measured alone, scaled within bounds and never surer than it was."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from relaygr.domain.cost import CostModel
from services.ranker.core.costs import ERROR_STEP, EVERY, FACTOR_LEAST, FACTOR_MOST, FACTOR_STEP, CostWatch

# A token takes a power of two, so that a factor is read back exactly.
ALONE = CostModel(1e5, 1024.0, 2.0, 3e6, 0.5, 0.1, 512, 100)
lengths_ns = st.integers(0, 50_000_000)
phases = st.lists(
    st.tuples(st.lists(st.tuples(lengths_ns, lengths_ns), min_size=1, max_size=8), st.integers(1, 200)),
    min_size=1,
    max_size=5,
)


def ends(phases):
    """Each phase repeats its jobs in turn."""
    return [jobs[n % len(jobs)] for jobs, count in phases for n in range(count)]


@settings(max_examples=100, deadline=None)
@given(phases=phases)
def test_what_is_published_stays_within_its_bounds_and_differs_by_a_step(phases):
    watch, last, quiet = CostWatch(ALONE), ALONE, 0
    for expected_ns, measured_ns in ends(phases):
        model = watch.ended(expected_ns, measured_ns)
        quiet += expected_ns > 0
        assert watch.published == (model or last)
        if model is None:
            continue
        assert quiet >= EVERY
        factor, last_factor = model.token_ns / ALONE.token_ns, last.token_ns / ALONE.token_ns
        assert FACTOR_LEAST <= factor <= FACTOR_MOST
        assert model.relative_error >= ALONE.relative_error
        assert model == ALONE.scaled(factor, model.relative_error)
        is_far = abs(factor / last_factor - 1) > FACTOR_STEP
        assert is_far or abs(model.relative_error - last.relative_error) > ERROR_STEP
        last, quiet = model, 0


@settings(max_examples=30, deadline=None)
@given(phases=phases)
def test_same_jobs_same_models(phases):
    one, two = CostWatch(ALONE), CostWatch(ALONE)
    assert [one.ended(*job) for job in ends(phases)] == [two.ended(*job) for job in ends(phases)]
