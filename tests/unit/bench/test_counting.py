"""Operations are counted as the result needs them; held to a count of every multiplication by hand."""

import itertools

import pytest

from bench.engine.counting import (
    append_work,
    dense_flops,
    extend_work,
    full_work,
    prefix_work,
    prefix_work_naive,
    rank_work,
)
from bench.engine.shapes import SHAPES, Shape

SMALL = Shape(width=24, heads=2, head_dim=8, layers=3)


def by_hand(shape: Shape, cached: int, causal: int, self_only: int) -> tuple[int, int]:
    """Row by row and pair by pair: (linear, attention)."""
    width, values = shape.width, shape.heads * shape.head_dim
    linear = attention = 0
    for layer, row in itertools.product(range(shape.layers), range(causal + self_only)):
        is_last, is_candidate = layer == shape.layers - 1, row >= causal
        if is_last and not is_candidate:
            linear += 2 * width * (values + values)
            continue
        linear += 2 * width * (4 * values) + 2 * values * width
        seen = cached + causal + 1 if is_candidate else cached + row + 1
        attention += seen * shape.heads * (2 * shape.head_dim + 2 * shape.head_dim)
    return linear, attention


@pytest.mark.parametrize(("cached", "causal", "self_only"), [(0, 17, 0), (0, 9, 5), (30, 6, 0), (30, 0, 7), (3, 4, 5)])
def test_counts_what_each_row_and_pair_needs(cached, causal, self_only):
    work = extend_work(SMALL, cached=cached, causal=causal, self_only=self_only)
    assert (work.linear_flops, work.attention_flops) == by_hand(SMALL, cached, causal, self_only)
    assert work.scores == work.attention_flops // (4 * SMALL.head_dim)


def test_a_prefix_and_its_append_need_what_the_longer_prefix_needs():
    whole, first, rest = prefix_work(SMALL, 50), prefix_work(SMALL, 40), append_work(SMALL, 40, 10)
    assert whole.flops == first.flops + rest.flops


def test_full_inference_needs_the_prefix_and_the_rank():
    assert full_work(SMALL, 40, 9).flops == prefix_work(SMALL, 40).flops + rank_work(SMALL, 40, 9).flops


def test_the_naive_count_is_larger_by_the_last_layer():
    shape, tokens = SMALL, 20
    more = prefix_work_naive(shape, tokens).flops - prefix_work(shape, tokens).flops
    pairs = tokens * (tokens + 1) // 2
    values = shape.heads_width
    assert more == tokens * (2 * shape.width * 2 * values + 2 * values * shape.width) + pairs * 4 * values


def test_dense_counts_every_pair_of_every_layer():
    tokens = 20
    linear = prefix_work_naive(SMALL, tokens).linear_flops
    assert dense_flops(SMALL, tokens) == linear + SMALL.layers * tokens**2 * 4 * SMALL.heads_width


def test_a_rank_reads_all_cached_bytes_and_an_append_those_of_layers_that_attend():
    shape = SHAPES["d256_h4x64_l4"]
    assert rank_work(shape, 100, 5).context_bytes == 100 * shape.token_bytes
    assert append_work(shape, 100, 5).context_bytes == 100 * shape.token_bytes * 3 // 4
