"""The baseline is fair: it computes what the model computes, in both of its forms."""

import numpy as np
import pytest
import torch

from bench.engine.dense import DenseStack, bytes_needed, causal_mask
from bench.engine.shapes import TORCH, Shape
from bench.engine.subject import Subject, model_of
from relaygr.model.error import logit_error
from relaygr.model.ops.reference import visible
from relaygr.model.run import run

SHAPE = Shape(width=32, heads=2, head_dim=16, layers=3)
TOKENS, CANDIDATES = 150, 20


def subject(dtype: str) -> Subject:
    return Subject(model_of("small", SHAPE, 5, kernel=TORCH, dtype=dtype), TOKENS, seed=2)


def rows_of(one: Subject) -> torch.Tensor:
    inputs = one.inputs(CANDIDATES)
    x_prefix_TD = one.model.embed_prefix(inputs.profile, inputs.prefix, 0, inputs.prefix_tokens)
    last_s = int(inputs.prefix.timestamps_s[-1])
    _, x_CD = one.model.embed_suffix(
        len(inputs.prefix), last_s, inputs.delta, inputs.cross, inputs.candidates, inputs.request_time_s
    )
    return torch.cat([x_prefix_TD, x_CD])


@pytest.mark.parametrize("is_lean", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.05)])
def test_the_dense_baseline_scores_as_the_model_does(dtype, tolerance, is_lean):
    one = subject(dtype)
    hidden_TD = DenseStack(one.model, lean=is_lean)(rows_of(one), visible(0, TOKENS + CANDIDATES, CANDIDATES))
    assert logit_error(one.model.head(hidden_TD[TOKENS:]), one.full(CANDIDATES)) <= tolerance


def test_the_comparison_would_notice_a_mask_that_lets_candidates_see_one_another():
    one = subject("float32")
    hidden_TD = DenseStack(one.model)(rows_of(one), causal_mask(TOKENS + CANDIDATES))
    assert logit_error(one.model.head(hidden_TD[TOKENS:]), one.full(CANDIDATES)) > 1e-3


def test_causal_rows_are_what_an_extend_without_candidates_would_pass_on():
    """The timed form: causal rows alone. Row i of the stack equals a candidate that follows the first i rows."""
    one = subject("float32")
    x_TD = rows_of(one)[:TOKENS]
    hidden_TD = DenseStack(one.model)(x_TD, causal_mask(TOKENS))
    for row in (0, 77, TOKENS - 1):
        alone_1D = run(one.model.extend(x_TD[: row + 1], 1, None, None))
        assert logit_error(hidden_TD[row : row + 1], alone_1D) <= 1e-5


def test_the_memory_it_needs_grows_with_the_square():
    assert bytes_needed(SHAPE, 8192) == 4 * bytes_needed(SHAPE, 4096)
    assert np.isclose(bytes_needed(SHAPE, 1024), 1024 * 1024 * (2 * 2 * 3 + 1))
