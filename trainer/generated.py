"""Generated long histories, for tests and load: not real behaviours, and named so.

The shapes are fitted to MovieLens-100k: history lengths are log-normal (median 65, 99th
percentile 440; `length_scale` stretches them), item popularity falls off like
1 / (rank + offset)^exponent, behaviours come in sittings with seconds between them and days
between sittings, and a user keeps to few of the item groups. The groups give a model
something to learn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relaygr.behaviours.log import Rows

LENGTH_MEDIAN = 65
LENGTH_SIGMA = 0.87
"""Of the logarithm of the length."""
RANK_OFFSET = 60
RANK_EXPONENT = 1.3
SITTING_MEAN = 40
"""Behaviours of a sitting."""
GAP_MEAN_S = 40
BREAK_MEAN_S = 6 * 86_400
EPOCH_S = 875_000_000
SPAN_S = 200 * 86_400
ACTION_SHARES = (0.06, 0.11, 0.27, 0.34, 0.22)
"""Of ratings 1 to 5."""


@dataclass(frozen=True, kw_only=True)
class GeneratedOptions:
    """What to generate."""

    users: int = 200
    items: int = 1700
    groups: int = 20
    group_loyalty: float = 0.7
    """Part of a user's behaviours that fall into the user's own three groups."""
    length_scale: float = 1.0
    length_max: int = 20_000
    seed: int = 1


def generated_rows(options: GeneratedOptions) -> Iterator[Rows]:
    """One chunk a user; user ids from 1, item ids from 1 with the popular ones anywhere."""
    rng = np.random.default_rng(options.seed)
    popularity = rng.permutation((np.arange(options.items) + RANK_OFFSET) ** -RANK_EXPONENT)
    group_of = rng.integers(0, options.groups, options.items)
    for user in range(1, options.users + 1):
        own = rng.choice(options.groups, min(3, options.groups), replace=False)
        items = _items(popularity, np.isin(group_of, own), _length(options, rng), options.group_loyalty, rng)
        n = len(items)
        actions = rng.choice(np.arange(1, 6), n, p=ACTION_SHARES).astype(np.int32)
        yield Rows(np.full(n, user, np.int64), items + 1, _times_s(n, rng), actions)


def _length(options: GeneratedOptions, rng: np.random.Generator) -> int:
    length = LENGTH_MEDIAN * options.length_scale * np.exp(LENGTH_SIGMA * rng.normal())
    return int(np.clip(length, 2, options.length_max))


def _items(
    popularity: NDArray[np.float64], is_own: NDArray[np.bool_], n: int, loyalty: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    own = popularity * is_own
    if not own.sum():
        own = popularity
    mixed = loyalty * own / own.sum() + (1 - loyalty) * popularity / popularity.sum()
    # Without repeats as long as there are items left, as people rate a film once.
    whole, rest = divmod(n, len(popularity))
    drawn = [rng.permutation(len(popularity)) for _ in range(whole)]
    drawn.append(rng.choice(len(popularity), rest, replace=False, p=mixed / mixed.sum()))
    return np.concatenate(drawn).astype(np.int64)


def _times_s(n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    gaps = rng.exponential(GAP_MEAN_S, n)
    breaks = rng.random(n) < 1 / SITTING_MEAN
    gaps += breaks * rng.exponential(BREAK_MEAN_S, n)
    return (EPOCH_S + rng.integers(0, SPAN_S) + np.cumsum(gaps)).astype(np.int64)
