"""Operations that a job needs, from the sizes alone.

Counted is what the result depends on, whatever a kernel does beyond it:

- A pair of query and key counts when the mask lets it through: T(T+1)/2 of a prefix of T
  tokens, not T^2. A pair costs 2 * head_dim for its score and 2 * head_dim for its value.
- Of the last layer, causal rows need only K and V: nobody reads what they gather. A
  prefix attends nowhere there; candidates do.
- A multiplication and its addition are two operations. Norms, SiLU, gates, embeddings and
  the scorer's head are not counted; SiLU's scores are, apart, for the arithmetic of
  expect.py.

The naive count, as often published, takes every layer whole. Its share of the peak is
larger by what the engine rightly leaves out, so it is reported under its own name and no
target is held against it.

Source: design, section 3 (ranker).
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.engine.shapes import Shape


@dataclass(frozen=True, slots=True)
class Work:
    """What one job needs."""

    linear_flops: int
    """Of the projections in and out."""
    attention_flops: int
    scores: int
    """Pairs times heads: how often SiLU is taken in attention."""
    rows: int
    """Rows that pass through layers, over all layers."""
    context_bytes: int
    """Cached K/V read."""

    @property
    def flops(self) -> int:
        """All that is counted."""
        return self.linear_flops + self.attention_flops


def extend_work(
    shape: Shape, *, cached: int = 0, causal: int = 0, self_only: int = 0, last_layer_whole: bool = False
) -> Work:
    """Of causal rows and then candidates on a cached context."""
    own = causal * (causal + 1) // 2
    of_candidates = self_only * (cached + causal + 1)
    of_causal = causal * cached + own
    rows = causal + self_only
    # In: U, V, Q, K of a row; out: back to the width.
    row_flops = 2 * shape.width * 4 * shape.heads_width + 2 * shape.heads_width * shape.width
    kv_flops = 2 * shape.width * 2 * shape.heads_width
    whole_layers = shape.layers if last_layer_whole else shape.layers - 1
    pairs = whole_layers * (of_causal + of_candidates)
    linear = whole_layers * rows * row_flops
    if not last_layer_whole:
        pairs += of_candidates
        linear += causal * kv_flops + self_only * row_flops
    attending_layers = shape.layers if self_only or last_layer_whole else shape.layers - 1
    return Work(
        linear_flops=linear,
        attention_flops=pairs * 4 * shape.heads_width,
        scores=pairs * shape.heads,
        rows=shape.layers * rows,
        context_bytes=cached * shape.token_bytes * attending_layers // shape.layers,
    )


def prefix_work(shape: Shape, tokens: int) -> Work:
    """Pre-infer from nothing."""
    return extend_work(shape, causal=tokens)


def prefix_work_naive(shape: Shape, tokens: int) -> Work:
    """The same with every layer whole."""
    return extend_work(shape, causal=tokens, last_layer_whole=True)


def append_work(shape: Shape, cached: int, new: int) -> Work:
    """Pre-infer of the behaviours that came since."""
    return extend_work(shape, cached=cached, causal=new)


def rank_work(shape: Shape, cached: int, candidates: int) -> Work:
    """Rank on psi."""
    return extend_work(shape, cached=cached, self_only=candidates)


def full_work(shape: Shape, tokens: int, candidates: int) -> Work:
    """Prefix and candidates in one pass."""
    return extend_work(shape, causal=tokens, self_only=candidates)


def dense_flops(shape: Shape, tokens: int) -> int:
    """What the dense baseline carries out: T^2 pairs, every layer whole."""
    linear = extend_work(shape, causal=tokens, last_layer_whole=True).linear_flops
    return linear + shape.layers * tokens * tokens * 4 * shape.heads_width
