"""Item vectors to start from: what the training part says about items without any model.

A small model has minutes to learn; who is popular and what is watched together are
counted in a second. The first dimension of an item's vector takes its popularity, the
others a factorisation of how often items occur near each other (shifted positive
pointwise mutual information, as word vectors are made of).

Shapes: V items, D width.

Source: O. Levy and Y. Goldberg, Neural word embedding as implicit matrix factorization, 2014.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trainer.split import Split

ITEMS_MAX = 8192
"""Factorised at most: the most popular; a dense matrix of 256 MB. The others start from their popularity alone."""
NEAR = 10
"""Behaviours after one that count as near it."""
POWER_ROUNDS = 3


def item_vectors(split: Split, width: int, seed: int) -> NDArray[np.float32]:
    """Vectors [V, D] of the catalogue's items; every dimension has about unit variance over the items."""
    vectors = np.zeros((len(split.catalogue), width), np.float32)
    chosen = np.sort(np.argsort(-split.popularity, kind="stable")[:ITEMS_MAX])
    near = _near_counts(split, chosen)
    factors = _factors(_information(near), min(width - 1, len(chosen)), seed)
    vectors[chosen, 1 : 1 + factors.shape[1]] = factors
    vectors[:, 0] = _standardised(np.log1p(split.popularity))
    return vectors


def _near_counts(split: Split, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
    place_of = np.full(len(split.catalogue), -1)
    place_of[chosen] = np.arange(len(chosen))
    near = np.zeros((len(chosen), len(chosen)), np.float32)
    for history in split.histories:
        items = history.behaviours.item_ids[: history.train_count]
        places = place_of[np.searchsorted(split.catalogue, items)]
        places = places[places >= 0]
        for step in range(1, NEAR + 1):
            np.add.at(near, (places[:-step], places[step:]), 1.0)
    return near + near.T


def _information(near: NDArray[np.float32]) -> NDArray[np.float32]:
    """Positive pointwise mutual information, with rare pairs smoothed."""
    of_item = near.sum(0) + 1.0
    expected = of_item[:, None] * of_item[None, :] / of_item.sum()
    return np.log(np.maximum((near + 0.5) / (expected + 0.5), 1.0)).astype(np.float32)


def _factors(matrix: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float32]:
    """Leading eigenvectors of a symmetric matrix by subspace iteration, scaled by the root of their values."""
    rng = np.random.default_rng(seed)
    basis = rng.normal(size=(len(matrix), count)).astype(np.float32)
    for _ in range(POWER_ROUNDS):
        basis, _ = np.linalg.qr(matrix @ basis)
    values, turned = np.linalg.eigh(basis.T @ (matrix @ basis))
    factors = (basis @ turned) * np.sqrt(np.abs(values))
    return factors / (factors.std() + 1e-6)


def _standardised(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return (values - values.mean()) / (values.std() + 1e-6)
