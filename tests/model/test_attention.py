"""The tiled attention against the oracle, over random shapes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from relaygr.model.ops import blocks, reference, tiled
from relaygr.model.pages import CachedKV
from relaygr.model.run import run


def _tensors(seed, dtype, heads, cached_parts, causal, self_only, qk_dim=4, v_dim=6):
    generator = torch.Generator().manual_seed(seed)

    def normal(tokens, width):
        return torch.randn(heads, tokens, width, generator=generator, dtype=torch.float64).to(dtype)

    cached = CachedKV(
        tuple(normal(tokens, qk_dim) for tokens in cached_parts),
        tuple(normal(tokens, v_dim) for tokens in cached_parts),
    )
    tokens = causal + self_only
    return normal(tokens, qk_dim), normal(tokens, qk_dim), normal(tokens, v_dim), cached


shapes = {
    "seed": st.integers(0, 1000),
    "heads": st.integers(1, 3),
    "cached_parts": st.lists(st.integers(1, 70), max_size=3),
    "causal": st.one_of(st.integers(0, 9), st.integers(120, 300)),
    "self_only": st.one_of(st.integers(0, 5), st.integers(100, 150)),
    "skip": st.integers(0, 400),
}


@given(**shapes)
@settings(max_examples=60, deadline=None)
def test_tiled_equals_reference(seed, heads, cached_parts, causal, self_only, skip):
    q, k, v, cached = _tensors(seed, torch.float64, heads, cached_parts, causal, self_only)
    q = q[:, min(skip, causal) :]
    got = tiled.attend(q, k, v, cached, self_only, 0.5, 77)
    wanted = reference.attend(q, k, v, cached, self_only, 0.5, 77)
    assert got.shape == wanted.shape == (q.shape[1], heads * 6)
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("causal", (0, 1, 700))
def test_tiled_equals_reference_over_several_key_tiles(causal):
    q, k, v, cached = _tensors(5, torch.float64, 2, (1000, 900), causal, 3)
    torch.testing.assert_close(
        tiled.attend(q, k, v, cached, 3, 0.5, 9), reference.attend(q, k, v, cached, 3, 0.5, 9), rtol=1e-11, atol=1e-11
    )


def test_bfloat16_is_summed_in_float32():
    q, k, v, cached = _tensors(6, torch.bfloat16, 2, (500,), 100, 20)
    wide = CachedKV(tuple(x.double() for x in cached.k_HSK), tuple(x.double() for x in cached.v_HSV))
    wanted = reference.attend(q.double(), k.double(), v.double(), wide, 20, 0.5, 100)
    got = tiled.attend(q, k, v, cached, 20, 0.5, 100)
    assert got.dtype == torch.bfloat16
    # One rounding of the result, and none along the way.
    torch.testing.assert_close(got.double(), wanted, rtol=2**-8, atol=1e-6)


def test_mask_is_causal_and_candidates_see_themselves_only():
    wanted = [
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 0, 1],
    ]
    assert reference.visible(2, 4, 2).int().tolist() == wanted


def test_attention_may_be_preempted_after_each_block_against_each_tile():
    blocks_of_queries, tiles_of_keys = 3, 4
    cached_tokens = (tiles_of_keys - 1) * blocks.TILE_KEYS
    pages = (128,) * (cached_tokens // 128)
    q, k, v, cached = _tensors(7, torch.float64, 1, pages, blocks_of_queries * blocks.BLOCK_ROWS, 0)
    assert len(list(blocks.attend(q, k, v, cached, 0, 0.5, 9))) == blocks_of_queries * tiles_of_keys


def test_rows_done_slice_by_slice_are_those_done_at_once():
    rows_TD = torch.arange(3.0 * (2 * blocks.SLICE_ROWS + 5)).reshape(-1, 3)
    seen = []

    def doubled(part_TD):
        seen.append(len(part_TD))
        return part_TD * 2

    assert torch.equal(run(blocks.by_rows(doubled, rows_TD)), rows_TD * 2)
    assert seen == [blocks.SLICE_ROWS, blocks.SLICE_ROWS, 5]
