"""The float64 reference is itself right where that can be seen by hand, and sees what the kernels must."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from relaygr.behaviours.columns import Behaviours, Candidates, Cross, FeatureSpec, Profile
from relaygr.model.conformance import Bench
from relaygr.model.error import logit_error
from relaygr.model.oracle import infer_full_float64
from relaygr.model.run import RankInputs
from tests.model.models import ITEM_IDS, small_model, small_subject

DAY_S = 86_400


def _float64(model, inputs, **changes):
    return infer_full_float64(replace(model.config, **changes), model.state_dict(), model.vocabulary, inputs)


@pytest.fixture
def bench():
    return Bench(small_subject(), 2)


def test_an_empty_history_and_one_candidate_by_hand():
    """One layer, one head: two tokens, and every sum written out."""
    sizes = {"layers": 1, "heads": 1, "qk_dim": 1, "v_dim": 2, "normaliser": 2, "features": FeatureSpec()}
    model = small_model(tasks=("click",), **sizes)
    inputs = RankInputs(
        profile=Profile.of(),
        prefix=Behaviours.of([], []),
        delta=Behaviours.of([], []),
        cross=Cross.empty(),
        candidates=Candidates.of(ITEM_IDS[:1]),
        request_time_s=DAY_S,
    )
    w = {name: weight.double().numpy() for name, weight in model.state_dict().items()}

    def norm(x, name):
        return (x - x.mean()) / np.sqrt(x.var() + 1e-6) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        return w[f"{name}.weight"] @ x + w[f"{name}.bias"]

    def silu(x):
        return x / (1 + np.exp(-x))

    user = w["tokens.user"]
    candidate = w["tokens.item.weight"][1] + w["tokens.position.weight"][0] + w["tokens.gap.weight"][0]
    seen = [silu(linear(norm(x, "layers.0.norm_in"), "layers.0.project_in")) for x in (user, candidate)]
    # A row is two numbers of U, two of V, one of Q, one of K.
    av = sum(silu(seen[1][4] * row[5]) * row[2:4] / 2 for row in seen)
    x = candidate + linear(norm(av, "layers.0.norm_av") * seen[1][:2], "layers.0.project_out")
    logits = linear(silu(linear(norm(x, "scorer.norm"), "scorer.hidden")), "scorer.logits")
    torch.testing.assert_close(_float64(model, inputs), torch.from_numpy(logits[None]), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    "changes",
    [{"normaliser": 201}, {"alpha": 0.3}, {"positions": 100}, {"gap_buckets": 10}],
    ids=lambda changes: next(iter(changes)),
)
def test_another_constant_gives_other_scores(bench, changes):
    inputs = bench.inputs(150)
    assert logit_error(_float64(bench.model, inputs, **changes), bench.full(inputs)) >= 1e-4


def test_the_order_of_behaviours_shows(bench):
    inputs = bench.inputs(30)
    items = inputs.prefix.item_ids[::-1].copy()
    reversed_ = replace(inputs, prefix=replace(inputs.prefix, item_ids=items))
    assert logit_error(_float64(bench.model, reversed_), bench.full(inputs)) >= 1e-3


def test_codes_out_of_range_and_unknown_items_score_as_served(bench):
    inputs = bench.inputs(6, 2, 4)
    odd = replace(inputs.prefix, actions=np.array([-1, 0, 3, 4, 99, -7], np.int32), item_ids=np.full(6, -(10**9)))
    odd = replace(odd, categorical=np.array([[9, -1]] * 6, np.int32))
    # Time that runs backwards counts as no time.
    odd = replace(odd, timestamps_s=odd.timestamps_s[::-1].copy())
    inputs = replace(inputs, prefix=odd)
    assert logit_error(bench.full(inputs), _float64(bench.model, inputs)) <= 1e-5
