"""Weights to start from: what the training part says without any model.

A small model has minutes to learn; who is popular and what the same users turn to are
counted in a second. The first dimension of an item's vector takes its popularity, the
others a factorisation of how often two items occur in one history (positive pointwise
mutual information, as word vectors are made of).

Vectors alone do not help: random weights mix them past recognition, and their gradient
is noise for hundreds of steps. So the other weights start where a comparison of a
candidate with the history is already in the rows, and training only has to find it.

Shapes: V items, D width.

Source: O. Levy and Y. Goldberg, Neural word embedding as implicit matrix factorization, 2014.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from relaygr.model.hstu import HstuModel
from trainer.split import Split

ITEMS_MAX = 8192
"""Factorised at most: the most popular; a dense matrix of 256 MB. The others start from their popularity alone."""
TOGETHER_MAX = 512
"""Longer histories are counted in pieces of so many behaviours, as the pairs grow with the square."""
POWER_ROUNDS = 3

CODE_SCALE = 0.1
"""Of position and gap rows: untrained they are noise, and at the scale of the items most of a token's row."""
ACTION_SCALE = 0.5
"""Of action rows of a log with ratings, which predict likes. Otherwise they count as codes: one vector
that all behaviours share would make all of them look alike."""
BRANCH_SCALE = 0.3
"""Of what a layer adds: six random layers at full scale leave little of an item's own vector."""


def warm_up(model: HstuModel, split: Split, seed: int) -> None:
    """Put what can be counted in place of random weights, at the same scale, and quieten the rest."""
    width = model.config.width
    with torch.no_grad():
        model.tokens.item.weight[1:] = torch.from_numpy(item_vectors(split, width, seed)) * width**-0.5
        model.tokens.position.weight *= CODE_SCALE
        model.tokens.gap.weight *= CODE_SCALE
        model.tokens.action.weight *= ACTION_SCALE if split.has_likes else CODE_SCALE
        for layer in model.layers:
            values, keys = 2 * layer.v_width, 2 * layer.v_width + layer.qk_width
            # Its outputs are U, V, Q, K. With equal U and V, LN(AV) * U compares a candidate with
            # what it gathered; with equal Q and K, it gathers more of what is like it.
            weight = layer.project_in.weight
            weight[layer.v_width : values] = weight[: layer.v_width]
            weight[keys:] = weight[values:keys]
            layer.project_out.weight *= BRANCH_SCALE


def item_vectors(split: Split, width: int, seed: int) -> NDArray[np.float32]:
    """Vectors [V, D] of the catalogue's items; the factors together and the popularity have unit variance."""
    vectors = np.zeros((len(split.catalogue), width), np.float32)
    chosen = np.sort(np.argsort(-split.popularity, kind="stable")[:ITEMS_MAX])
    together = _together_counts(split, chosen)
    factors = _factors(_information(together), min(width - 1, len(chosen)), seed)
    vectors[chosen, 1 : 1 + factors.shape[1]] = factors
    vectors[:, 0] = _standardised(np.log1p(split.popularity))
    return vectors


def _together_counts(split: Split, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
    """In how many histories two items both occur.

    Counted over whole histories and not over neighbours only: on a log of some ten thousand
    behaviours, a pair of items is met too seldom as neighbours to tell anything.
    """
    place_of = np.full(len(split.catalogue), -1)
    place_of[chosen] = np.arange(len(chosen))
    together = np.zeros((len(chosen), len(chosen)), np.float32)
    for history in split.histories:
        items = history.behaviours.item_ids[: history.train_count]
        places = place_of[np.searchsorted(split.catalogue, items)]
        for first in range(0, len(places), TOGETHER_MAX):
            piece = np.unique(places[first : first + TOGETHER_MAX])
            piece = piece[piece >= 0]
            together[np.ix_(piece, piece)] += 1.0
    np.fill_diagonal(together, 0.0)
    return together


def _information(together: NDArray[np.float32]) -> NDArray[np.float32]:
    """Positive pointwise mutual information, with rare pairs smoothed."""
    of_item = together.sum(0) + 1.0
    expected = of_item[:, None] * of_item[None, :] / of_item.sum()
    return np.log(np.maximum((together + 0.5) / (expected + 0.5), 1.0)).astype(np.float32)


def _factors(matrix: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float32]:
    """Leading eigenvectors of a symmetric matrix by subspace iteration, scaled by the root of their shrunk values.

    Chance gives a matrix of counts a long tail of like eigenvalues. The median stands for its
    size and is taken off, so that chance does not outweigh the few directions that mean something.
    """
    rng = np.random.default_rng(seed)
    basis = rng.normal(size=(len(matrix), count)).astype(np.float32)
    for _ in range(POWER_ROUNDS):
        basis, _ = np.linalg.qr(matrix @ basis)
    values, turned = np.linalg.eigh(basis.T @ (matrix @ basis))
    factors = (basis @ turned) * np.sqrt(np.maximum(values - np.median(values), 0.0))
    return factors / (factors.std() + 1e-6)


def _standardised(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return (values - values.mean()) / (values.std() + 1e-6)
