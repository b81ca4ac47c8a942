"""The engine's jobs as they are timed are the ranker's, and repeat."""

import mmap

import numpy as np
import pytest
import torch

from bench.engine.shapes import APPEND_TOKENS, NATIVE, TORCH, Shape
from bench.engine.steady import steady
from bench.engine.subject import ITEMS, Subject, Unavailable, build_model, model_of
from relaygr.model.error import logit_error

SHAPE = Shape(width=32, heads=2, head_dim=16, layers=2)
TOKENS = 140


@pytest.fixture(params=[TORCH, "auto"])
def subject(request: pytest.FixtureRequest) -> Subject:
    return Subject(model_of("small", SHAPE, 5, kernel=request.param, dtype="float32"), TOKENS, seed=2)


def test_a_rank_on_psi_scores_as_from_nothing(subject):
    psi = subject.prefix()
    assert psi.token_count == TOKENS
    assert logit_error(subject.rank(20), subject.full(20)) <= 1e-5


def test_chunks_write_the_same_psi(subject):
    subject.prefix()
    whole = subject.rank(20)
    subject.prefix_chunked()
    assert logit_error(subject.rank(20), whole) <= 1e-5


def test_an_append_can_be_repeated_and_leaves_the_prefix_alone(subject):
    subject.prefix()
    before = subject.rank(20)
    for _ in range(2):
        assert subject.append().token_count == TOKENS + APPEND_TOKENS
    assert torch.equal(subject.rank(20), before)


def test_the_longest_case_fits_the_models_limits(subject):
    limits = subject.model.spec.limits
    assert limits.window_behaviours_max >= 8192 + APPEND_TOKENS and limits.candidates_max >= 2048
    assert subject.model.known_items(np.arange(ITEMS)).all()


def test_a_kernel_that_cannot_be_had_is_said_to_be_unavailable():
    def build(kernel: str, kv_dtype: str):
        raise ValueError("it is not built")

    with pytest.raises(Unavailable, match="it is not built"):
        build_model(build, kernel=NATIVE)


def test_a_leak_shows_in_the_account():
    kept = []

    def leak() -> None:
        kept.append(mmap.mmap(-1, 64 * 1024))
        kept[-1].write(b"x" * 64 * 1024)

    leaky, frugal = steady(leak), steady(lambda: sum(range(100)))
    assert leaky.rss_growth_kb >= 50 * 64 and leaky.minor_faults_per_call >= 1
    assert frugal.minor_faults_per_call < 1
