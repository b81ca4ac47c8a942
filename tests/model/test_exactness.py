"""Every model we ship or show passes the exactness suite with every kernel, and models with a mistake do not."""

from dataclasses import replace

import numpy as np
import pytest

from relaygr.model.conformance import CHECKS, Subject
from tests.model.broken_models import BROKEN, broken_model
from tests.model.example_model import PooledModel, pooled_float64
from tests.model.models import EXACT_KERNELS, KERNELS, config, examples, small_model, small_subject

FORMS = ("silu_uvqk", "silu_u")
DTYPES = ("float32", "bfloat16")
BY_NAME = {check.__name__: check for check in CHECKS}


def _example(dtype):
    ids = np.arange(1000)
    exact = PooledModel(ids)
    return Subject(
        model=PooledModel(ids, dtype=dtype),
        item_ids=ids,
        oracle=exact if dtype == "bfloat16" else None,
        reference=lambda inputs: pooled_float64(exact, inputs),
        reads_request_time=False,
    )


def _hstu(kernel, form, dtype):
    return small_subject(form, dtype, kernel=kernel)


SUBJECTS = {
    f"{form}-{dtype}-{kernel}": (_hstu, kernel, form, dtype)
    for kernel in KERNELS
    for form in (FORMS if kernel in EXACT_KERNELS else FORMS[:1])
    for dtype in DTYPES
}
SUBJECTS |= {f"example-{dtype}": (_example, dtype) for dtype in DTYPES}


@pytest.fixture(scope="module", params=SUBJECTS, ids=str)
def subject(request):
    make, *arguments = SUBJECTS[request.param]
    return make(*arguments)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("seed", range(1, 1 + examples(1)))
def test_is_exact(subject, check, seed):
    check(subject, seed)


@pytest.mark.parametrize(("kind", "check"), BROKEN, ids=lambda value: getattr(value, "__name__", ""))
def test_suite_finds_the_mistake(kind, check):
    sound = small_subject()
    BY_NAME[check](sound, 1)
    with pytest.raises(AssertionError):
        BY_NAME[check](replace(sound, model=broken_model(kind, config(), small_model())), 1)


def test_every_check_has_a_mistake_that_it_finds():
    assert {check for _, check in BROKEN} == set(BY_NAME)


def test_a_statement_about_what_matters_is_checked_both_ways():
    """A model that reads positions and times cannot be excused by saying that it does not."""
    careless = replace(small_subject(), reads_positions=False, reads_request_time=False)
    for name in ("check_wrong_positions_show", "check_another_request_time_shows"):
        with pytest.raises(AssertionError, match="said not to matter"):
            BY_NAME[name](careless, 1)


def test_bfloat16_without_a_measure_of_its_rounding_is_refused():
    model = small_model(dtype="bfloat16")
    with pytest.raises(AssertionError, match="oracle"):
        Subject(model=model, item_ids=model.vocabulary)
