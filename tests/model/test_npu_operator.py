"""Ascend's paged operator: called as its schema says, and never trusted before it has been tried."""

import logging
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from relaygr.model import checkpoint
from relaygr.model.ops import npu, reference
from relaygr.model.pages import CachedKV
from tests.model.hstu_paged import MISTAKES, Paged, registered

CPU = torch.device("cpu")


def tensors(seed, heads, cached_tokens, causal, self_only, width=16, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)

    def rows(tokens):
        return torch.randn(heads, tokens, width, generator=generator, dtype=torch.float64).to(dtype)

    parts = [rows(min(128, cached_tokens - first)) for first in range(0, cached_tokens, 128)]
    cached = CachedKV(tuple(parts), tuple(rows(part.shape[1]) for part in parts))
    tokens = causal + self_only
    return rows(tokens), rows(tokens), rows(tokens), cached


@given(
    seed=st.integers(0, 1000),
    heads=st.integers(1, 3),
    cached_tokens=st.integers(0, 300),
    causal=st.integers(0, 140),
    self_only=st.integers(0, 20),
    skip=st.integers(0, 200),
)
@settings(max_examples=60, deadline=None)
def test_the_operator_equals_the_reference(seed, heads, cached_tokens, causal, self_only, skip):
    q, k, v, cached = tensors(seed, heads, cached_tokens, causal, self_only)
    q = q[:, min(skip, causal) :]
    got = npu.PagedAttention(Paged())(q, k, v, cached, self_only, 0.5, 77)
    torch.testing.assert_close(got, reference.attend(q, k, v, cached, self_only, 0.5, 77), rtol=1e-12, atol=1e-12)


def test_it_is_called_through_torch_by_the_names_of_its_schema():
    q, k, v, cached = tensors(1, 2, 200, 5, 3)
    operator = Paged()
    with registered(operator):
        got = npu.PagedAttention(npu.find_operator())(q, k, v, cached, 3, 0.5, 77)
    assert len(operator.calls) == 1
    torch.testing.assert_close(got, reference.attend(q, k, v, cached, 3, 0.5, 77), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("heads", "width", "cached_tokens", "causal", "self_only"),
    [(17, 16, 10, 2, 1), (2, 24, 10, 2, 1), (2, 16, 0, 0, 3), (1, 16, 10, 2, 513), (1, 16, 20480, 1, 1)],
)
def test_what_it_does_not_take_is_computed_with_torch(heads, width, cached_tokens, causal, self_only):
    q, k, v, cached = tensors(2, heads, cached_tokens, causal, self_only, width)
    operator = Paged()
    got = npu.PagedAttention(operator)(q, k, v, cached, self_only, 0.5, 77)
    assert not operator.calls
    torch.testing.assert_close(got, reference.attend(q, k, v, cached, self_only, 0.5, 77), rtol=1e-12, atol=1e-12)


def test_values_of_another_width_than_keys_are_computed_with_torch():
    assert npu.takes(4, 64, 64, 100, 10, 5) and not npu.takes(4, 64, 32, 100, 10, 5)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float16, torch.bfloat16))
def test_a_right_operator_serves(dtype):
    with registered(Paged()):
        attention = npu.attention_on(CPU, dtype, 2, 32, 32)
    assert attention is not None and attention.name == "npu/hstu_paged"


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_operator_never_scores(mistake, dtype, caplog):
    caplog.set_level(logging.WARNING)
    with registered(Paged(mistake)):
        assert npu.attention_on(CPU, dtype, 2, 32, 32) is None
    assert len(caplog.records) == 1 and "differs from the definition" in caplog.text


def test_an_operator_that_raises_never_scores(caplog):
    def failing(**arguments):
        raise RuntimeError("no kernel for this chip")

    assert npu.verified(failing, CPU, torch.float32, 2, 32) is None
    assert "no kernel for this chip" in caplog.text


def test_an_operator_of_another_schema_never_scores(caplog):
    with torch.library._scoped_library("mxrec", "FRAGMENT") as library:
        library.define("hstu_paged(Tensor q, Tensor k, Tensor v) -> Tensor")
        library.impl("hstu_paged", lambda q, k, v: q, "CPU")
        assert npu.attention_on(CPU, torch.float32, 2, 32, 32) is None
    assert "failed its trial" in caplog.text


def test_without_a_provider_there_is_none():
    assert npu.find_operator() is None


def test_a_provider_that_cannot_be_imported_is_passed_over(tmp_path, monkeypatch):
    (tmp_path / "rec_ops.py").write_text("raise OSError('libascendcl.so: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    assert npu.find_operator() is None
    assert "rec_ops" not in sys.modules


@pytest.mark.parametrize("is_right", (True, False))
def test_a_model_computes_with_it_only_when_it_is_right(is_right, small_npu_model):
    model = small_npu_model
    before = model.attention
    with registered(Paged("" if is_right else MISTAKES[0])):
        checkpoint._use_operator(model)
    assert (model.kernel == "npu/hstu_paged") is is_right
    assert (model.attention is before) is not is_right


@pytest.fixture
def small_npu_model():
    from tests.model.models import small_model

    return small_model(qk_dim=16, v_dim=16, kernel="torch")
