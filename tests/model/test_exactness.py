"""Every model we ship or show passes the exactness suite, and models with a mistake do not."""

import numpy as np
import pytest

from relaygr.model.conformance import CHECKS, Subject
from tests.model.broken_models import BROKEN, broken_model
from tests.model.example_model import PooledModel
from tests.model.models import ITEM_IDS, config, small_model

FORMS = ("silu_uvqk", "silu_u")


def _example(dtype):
    ids = np.arange(1000)
    oracle = PooledModel(ids) if dtype == "bfloat16" else None
    return Subject(model=PooledModel(ids, dtype=dtype), item_ids=ids, oracle=oracle)


def _hstu(form, dtype):
    oracle = small_model(form) if dtype == "bfloat16" else None
    return Subject(model=small_model(form, dtype), item_ids=ITEM_IDS, oracle=oracle)


SUBJECTS = {f"{form}-{dtype}": (_hstu, form, dtype) for form in FORMS for dtype in ("float32", "bfloat16")}
SUBJECTS |= {f"example-{dtype}": (_example, dtype) for dtype in ("float32", "bfloat16")}


@pytest.fixture(scope="module", params=SUBJECTS, ids=str)
def subject(request):
    make, *arguments = SUBJECTS[request.param]
    return make(*arguments)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("seed", (1, 2))
def test_is_exact(subject, check, seed):
    check(subject, seed)


def test_reference_attention_is_exact_too():
    subject = Subject(model=small_model(kernel="reference"), item_ids=ITEM_IDS)
    for check in CHECKS:
        check(subject, 1)


@pytest.mark.parametrize(("kind", "check"), BROKEN.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_suite_finds_the_mistake(kind, check):
    subject = Subject(model=broken_model(kind, config(), small_model()), item_ids=ITEM_IDS)
    checks = {check.__name__: check for check in CHECKS}
    with pytest.raises(AssertionError):
        checks[check](subject, 1)


def test_bfloat16_without_an_oracle_is_refused():
    with pytest.raises(AssertionError, match="oracle"):
        CHECKS[0](Subject(model=small_model(dtype="bfloat16"), item_ids=ITEM_IDS), 1)
