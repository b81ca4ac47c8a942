"""Any history, any cut, any chunking, any pages: the relay scores as full inference does."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from relaygr.behaviours.columns import FeatureSpec
from relaygr.model.conformance import TOLERANCE, Bench, Subject
from relaygr.model.error import logit_error
from relaygr.model.run import append, infer_full, pre_infer, rank_on_psi, run
from tests.model.models import FEATURES, ITEM_IDS, small_model


@given(
    seed=st.integers(0, 10_000),
    form=st.sampled_from(("silu_uvqk", "silu_u")),
    layers=st.integers(1, 3),
    heads=st.integers(1, 3),
    features=st.sampled_from((FEATURES, FeatureSpec())),
    positions=st.sampled_from((1, 100, 400)),
    prefix=st.integers(0, 280),
    delta=st.integers(0, 20),
    candidates=st.integers(1, 9),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_relay_equals_full(seed, form, layers, heads, features, positions, prefix, delta, candidates, data):
    model = small_model(form, seed=seed, layers=layers, heads=heads, features=features, positions=positions)
    bench = Bench(Subject(model=model, item_ids=ITEM_IDS), seed)
    inputs = bench.inputs(prefix, delta, candidates)
    first, chunk = data.draw(st.integers(1, prefix + 1)), data.draw(st.integers(10, 300))
    psi = run(
        pre_infer(model, inputs.profile, inputs.prefix, bench.pages(prefix + 1), chunk_tokens=chunk, end_token=first)
    )
    part = run(rank_on_psi(model, inputs, psi))
    whole = run(append(model, inputs.profile, inputs.prefix, psi, chunk_tokens=chunk))
    full = run(infer_full(model, inputs))
    for logits in (part, run(rank_on_psi(model, inputs, whole))):
        assert logit_error(logits, full) <= TOLERANCE


@pytest.mark.parametrize("form", ("silu_uvqk", "silu_u"))
def test_serving_equals_the_definition_in_float64(form):
    """The whole model with the oracle's attention and twice the digits."""
    model, oracle = small_model(form), small_model(form, kernel="reference").double()
    bench = Bench(Subject(model=model, item_ids=ITEM_IDS), 4)
    inputs = bench.inputs(200)
    wanted = run(infer_full(oracle, inputs))
    assert logit_error(run(rank_on_psi(model, inputs, bench.produce(inputs))), wanted) <= TOLERANCE


def test_bfloat16_relay_is_far_nearer_to_full_than_full_is_to_float32():
    model = small_model(dtype="bfloat16")
    bench = Bench(Subject(model=model, item_ids=ITEM_IDS, oracle=small_model()), 4)
    inputs = bench.inputs(280)
    full = bench.full(inputs)
    assert bench.arena.dtype == torch.bfloat16
    rounding = bench.allowed(inputs, full)
    assert 1e-4 < rounding < 0.1
    assert logit_error(run(rank_on_psi(model, inputs, bench.produce(inputs))), full) <= rounding / 2


def test_float32_model_on_bfloat16_pages_errs_by_rounding_only():
    model = small_model()
    bench = Bench(Subject(model=model, item_ids=ITEM_IDS), 4)
    inputs = bench.inputs(200)
    pages = replace(bench.pages(201), arena=bench.arena.bfloat16())
    psi = run(pre_infer(model, inputs.profile, inputs.prefix, pages, chunk_tokens=64))
    error = logit_error(run(rank_on_psi(model, inputs, psi)), bench.full(inputs))
    assert 1e-6 < error < 1e-2


def test_psi_longer_than_the_prefix_is_refused():
    model = small_model()
    bench = Bench(Subject(model=model, item_ids=ITEM_IDS), 4)
    inputs = bench.inputs(20)
    psi = replace(bench.produce(inputs), token_count=22)
    with pytest.raises(AssertionError, match="more than the prefix"):
        run(rank_on_psi(model, inputs, psi))
