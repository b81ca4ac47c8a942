"""Ranking metrics over scored candidates.

Shapes: C candidates of one request.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def auc(scores: ArrayLike, is_positive: ArrayLike) -> float:
    """Probability that a positive is scored above a negative, ties counting half; NaN without both."""
    scores, is_positive = np.asarray(scores), np.asarray(is_positive, bool)
    positives, negatives = int(is_positive.sum()), int((~is_positive).sum())
    if not positives or not negatives:
        return float("nan")
    ranks = _mid_ranks(scores)
    return float((ranks[is_positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def hits_at(scores: ArrayLike, is_positive: ArrayLike, k: int) -> NDArray[np.float64]:
    """For each positive: is it among the k best of itself and the negatives? Ties count by their chance."""
    scores, is_positive = np.asarray(scores), np.asarray(is_positive, bool)
    negatives, mine = scores[~is_positive], scores[is_positive]
    above = (negatives[None, :] > mine[:, None]).sum(1)
    equal = (negatives[None, :] == mine[:, None]).sum(1)
    # Among `equal` others in random order, the positive takes each of equal + 1 places alike.
    return np.clip((k - above) / (equal + 1), 0.0, 1.0)


def _mid_ranks(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[places]
