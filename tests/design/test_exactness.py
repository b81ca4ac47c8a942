"""Design, section 4: one constant N (condition 1), and the measure of error."""

from dataclasses import replace

import pytest
import torch

from relaygr.domain.identity import ModelIdentity
from relaygr.model.error import logit_error
from relaygr.model.ops import reference, tiled
from relaygr.model.pages import NOTHING_CACHED

N = 64


def rows(seed, tokens):
    """Queries, keys, values of two heads; the first rows are the same for any number of tokens."""
    made = torch.randn(3, 2, 200, 8, generator=torch.Generator().manual_seed(seed))
    return made[:, :, :tokens]


@pytest.mark.parametrize("attend", [reference.attend, tiled.attend], ids=["reference", "tiled"])
def test_what_a_token_gathers_depends_on_no_length_but_on_the_constant(attend):
    """Condition 1: neither the request's length nor the number of candidates is in the divisor."""
    short = attend(*rows(1, 40), NOTHING_CACHED, 0, 0.3, N)
    assert torch.allclose(attend(*rows(1, 150), NOTHING_CACHED, 0, 0.3, N)[:40], short, atol=1e-6)
    assert torch.allclose(attend(*rows(1, 41), NOTHING_CACHED, 1, 0.3, N)[:40], short, atol=1e-6)
    assert torch.allclose(attend(*rows(1, 40), NOTHING_CACHED, 0, 0.3, 4 * N) * 4, short, atol=1e-6)
    assert short.abs().max() > 1e-3, "the comparison compares something"


def test_another_constant_is_another_model():
    """Condition 1: N is part of the identity, so psi made with another one is never found."""
    one = ModelIdentity("m", "1", "ab" * 32, "float32", "layout", N)
    assert replace(one, normaliser=N + 1).key != one.key


@pytest.mark.parametrize(
    ("got", "wanted", "error"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([0.25], [0.0], 0.25),  # Absolute up to 1 ...
        ([-0.5], [0.5], 1.0),
        ([110.0], [100.0], 0.1),  # ... and relative beyond.
        ([-90.0], [-100.0], 0.1),
        ([0.0, 3.0, 8.0], [0.0, 2.0, 10.0], 0.5),  # The largest counts, not the mean.
    ],
)
def test_error_is_the_largest_difference_absolute_up_to_one_and_relative_beyond(got, wanted, error):
    assert logit_error(torch.tensor([got]), torch.tensor([wanted])) == pytest.approx(error)


@pytest.mark.parametrize("place", [0, 1])
def test_a_score_that_is_no_number_is_never_within_a_tolerance(place):
    pair = [torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0])]
    pair[place][1] = float("nan")
    assert not logit_error(*pair) <= 1e-5


def test_scores_of_another_shape_are_not_compared():
    with pytest.raises(AssertionError):
        logit_error(torch.zeros(2, 1), torch.zeros(2))
