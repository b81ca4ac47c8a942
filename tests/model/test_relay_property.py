"""Any model, any history, any cut, any chunking, any pages: the relay scores as full inference does."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from relaygr.model.conformance import CHECKS, TOLERANCE, Bench, Subject
from relaygr.model.error import logit_error
from relaygr.model.run import pre_infer, pre_infer_chunk, rank_on_psi, run, scratch_pages
from tests.model.models import EXACT_KERNELS, ITEM_IDS, KERNELS, NEAR_KERNELS, examples, small_model, small_subject
from tests.model.shapes import models, requests, seeds, steady_models, tolerance

by_kernel = pytest.mark.parametrize("kernel", KERNELS)
by_exact_kernel = pytest.mark.parametrize("kernel", EXACT_KERNELS)

# What a mistake does to the scores (shows.py) is asked of models that are known to read their history.
EQUALITIES = [check for check in CHECKS if not check.__module__.endswith(".shows")]


def _assert_near(got_CK, wanted_CK, model, inputs):
    assert got_CK.shape == wanted_CK.shape
    error = logit_error(got_CK, wanted_CK) if len(got_CK) else 0.0
    # What is allowed costs two inferences by definition: asked for only where 1e-5 is not kept.
    assert error <= TOLERANCE or error <= tolerance(model, inputs), f"error {error:.3g}"


@by_exact_kernel
@given(shape=models, request=requests)
@settings(max_examples=examples(40), deadline=None)
def test_full_equals_the_definition_in_float64(kernel, shape, request):
    subject = small_subject(kernel=kernel, **shape)
    bench = Bench(subject, request.seed)
    inputs = request.inputs(bench)
    _assert_near(bench.full(inputs), subject.reference(inputs), subject.model, inputs)


@pytest.mark.parametrize("kernel", NEAR_KERNELS)
@given(shape=models, request=requests)
@settings(max_examples=examples(40), deadline=None)
def test_relay_equals_full(kernel, shape, request):
    model = small_model(kernel=kernel, **shape)
    bench = Bench(Subject(model=model, item_ids=ITEM_IDS, relay_error_max=TOLERANCE), request.seed)
    inputs = request.inputs(bench)
    psi = bench.pages(inputs.prefix_tokens)
    for end in request.ends():
        psi = run(pre_infer_chunk(model, inputs.profile, inputs.prefix, psi, end))
    full_CK = bench.full(inputs)
    part = replace(psi, token_count=request.covered_tokens())
    for covered in (psi, part):
        _assert_near(bench.rank(inputs, covered), full_CK, model, inputs)
    for covered in (part, None):
        scratch = bench.pages(scratch_pages(model, inputs, covered) * bench.page)
        got_CK = run(rank_on_psi(model, inputs, covered, micro_batch=request.micro_batch, scratch=scratch))
        _assert_near(got_CK, full_CK, model, inputs)


@by_kernel
@given(shape=steady_models, seed=seeds, check=st.sampled_from(EQUALITIES))
@settings(max_examples=examples(40), deadline=None)
def test_suite_holds_for_any_shape(kernel, shape, seed, check):
    check(small_subject(kernel=kernel, **shape), seed)


@by_exact_kernel
@given(shape=steady_models, request=requests)
@settings(max_examples=examples(25), deadline=None)
def test_bfloat16_relay_adds_no_error_to_bfloat16(kernel, shape, request):
    """Against float64, the relay is as near as full inference in bfloat16 is; a rounding more or less."""
    subject = small_subject(dtype="bfloat16", kernel=kernel, **shape)
    bench = Bench(subject, request.seed)
    inputs = replace(request, candidates=12).inputs(bench)
    psi = replace(bench.produce(inputs, request.chunks[0]), token_count=request.covered_tokens())
    full_CK, relay_CK, wanted_CK = bench.full(inputs), bench.rank(inputs, psi), subject.reference(inputs)
    rounding = logit_error(full_CK, wanted_CK)
    assert rounding <= subject.reference_error_max
    assert logit_error(relay_CK, wanted_CK) <= rounding + 2**-8


@pytest.mark.parametrize("form", ("silu_uvqk", "silu_u"))
def test_serving_equals_the_definition_in_float64(form):
    subject = small_subject(form)
    bench = Bench(subject, 4)
    inputs = bench.inputs(200)
    assert logit_error(bench.rank(inputs, bench.produce(inputs)), subject.reference(inputs)) <= TOLERANCE


def test_bfloat16_relay_is_far_nearer_to_full_than_full_is_to_float32():
    bench = Bench(small_subject(dtype="bfloat16"), 4)
    inputs = bench.inputs(280)
    full = bench.full(inputs)
    assert bench.arena.dtype == torch.bfloat16
    rounding = bench.allowed(inputs, full)
    assert 1e-4 < rounding < 0.1
    assert logit_error(bench.rank(inputs, bench.produce(inputs)), full) <= rounding / 2


def test_float32_model_on_bfloat16_pages_errs_by_rounding_only():
    model = small_model()
    bench = Bench(Subject(model=model, item_ids=ITEM_IDS), 4)
    inputs = bench.inputs(200)
    pages = replace(bench.pages(201), arena=bench.arena.bfloat16())
    psi = run(pre_infer(model, inputs.profile, inputs.prefix, pages, chunk_tokens=64))
    error = logit_error(bench.rank(inputs, psi), bench.full(inputs))
    assert 1e-6 < error < 1e-2


def test_psi_longer_than_the_prefix_is_refused():
    bench = Bench(small_subject(), 4)
    inputs = bench.inputs(20)
    psi = replace(bench.produce(inputs), token_count=22)
    with pytest.raises(AssertionError, match="more than the prefix"):
        bench.rank(inputs, psi)


def test_psi_made_with_another_constant_shows():
    """Condition 1 across models: what N divided by is in the K/V from the second layer on."""
    bench = Bench(small_subject(), 4)
    inputs = bench.inputs(200)
    other = small_model(normaliser=400)
    psi = run(pre_infer(other, inputs.profile, inputs.prefix, bench.pages(201), chunk_tokens=128))
    assert logit_error(bench.rank(inputs, psi), bench.full(inputs)) >= 100 * TOLERANCE
    assert other.spec.identity.key != bench.model.spec.identity.key, "and is never found for it"
