"""Token rows that the native kernel makes: torch's, to the bit."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from relaygr.behaviours.columns import Behaviours, Candidates, Cross, Profile
from relaygr.model import codes
from relaygr.model.interface import TORCH_DTYPES
from relaygr.model.native_rows import GapCodes, NativeRows
from relaygr.native import LEVELS, load
from tests.model.models import small_model

pytestmark = pytest.mark.skipif(load() is None, reason="no native kernels on this machine")

ISAS = LEVELS[1 : load().level + 1] if load() else ()
seconds = st.integers(-(2**40), 2**40)


def odd_behaviours(model, count, seed):
    """With unknown items, actions of no table, steps back in time and the features that the model declares."""
    rng, features = np.random.default_rng(seed), model.config.features
    items = rng.choice(np.concatenate([model.vocabulary, [-3, 0, int(model.vocabulary[-1]) + 9]]), count)
    return Behaviours.of(
        items,
        1_600_000_000 + np.cumsum(rng.integers(-50, 5000, count)),
        rng.integers(-2, model.config.actions + 3, count),
        rng.standard_normal((count, features.behaviour_dense), np.float32),
        rng.integers(0, 3, (count, len(features.behaviour_categorical))),
    )


def odd_candidates(model, count, seed):
    rng, features = np.random.default_rng(seed), model.config.features
    items = rng.choice(np.concatenate([model.vocabulary, [-3, int(model.vocabulary[-1]) + 9]]), count)
    dense = rng.standard_normal((count, features.candidate_dense), np.float32)
    return Candidates.of(items, dense, rng.integers(0, 3, (count, len(features.candidate_categorical))))


def rows_of(model, behaviours, candidates):
    """Of a prefix in two pieces, of a delta, and of candidates."""
    profile = Profile.empty(model.config.features.user_dense, len(model.config.features.user_categorical))
    last_s = int(behaviours.timestamps_s[-1])
    cut = len(behaviours) // 2
    delta, cross = behaviours.slice(0, 5), Cross.empty(model.config.features.cross_dense)
    return [
        model.embed_prefix(profile, behaviours, 1, cut),
        model.embed_prefix(profile, behaviours, cut, len(behaviours) + 1),
        *model.embed_suffix(len(behaviours), last_s, delta, cross, candidates, last_s + 77),
        *model.embed_suffix(0, None, delta.slice(0, 0), cross, candidates, last_s),
    ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("isa", ISAS)
def test_rows_are_torchs_to_the_bit(dtype, isa):
    model = small_model("silu_uvqk", dtype, kernel="native", isa=isa, width=64, heads=2, qk_dim=32, v_dim=64)
    behaviours, candidates = odd_behaviours(model, 700, 1), odd_candidates(model, 33, 2)
    natively = rows_of(model, behaviours, candidates)
    model._stack = None
    for ours, torchs in zip(natively, rows_of(model, behaviours, candidates), strict=True):
        assert ours.dtype == torchs.dtype and torch.equal(ours, torchs)
    assert len(natively[0]) and bool(natively[0].any())


def test_a_row_that_its_table_does_not_have_is_refused():
    rows = NativeRows(load(), load().level)
    table = torch.ones(4, 16)
    for wrong in (4, -1):
        with pytest.raises(AssertionError, match="token 2"):
            rows.sum((table, table), (np.array([0, 1, wrong]), np.zeros(3, np.int64)))
    assert rows.sum((table, table), (np.array([0, 3]), np.array([1, 2]))).eq(2).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sums_are_rounded_after_each_addition(dtype):
    rows, generator = NativeRows(load(), load().level), torch.Generator().manual_seed(3)
    tables = [torch.randn(9, 40, generator=generator).mul(10.0**power).to(TORCH_DTYPES[dtype]) for power in range(4)]
    which = [np.arange(9), np.arange(9)[::-1], np.full(9, 4), np.arange(9)]
    for count in (2, 3, 4):
        wanted = tables[0][which[0]]
        for table, numbers in zip(tables[1:count], which[1:count], strict=True):
            wanted = wanted + table[numbers.copy()]
        assert torch.equal(rows.sum(tables[:count], which[:count]), wanted)


@given(st.lists(seconds, max_size=30), st.none() | seconds, st.integers(2, 40))
def test_gap_codes_are_those_of_the_definition(times_s, before_s, buckets):
    wanted = codes.sequence_gap_codes(torch.tensor(times_s, dtype=torch.int64), before_s, buckets)
    assert GapCodes(buckets).of(np.array(times_s, np.int64), before_s).tolist() == wanted.tolist()
