import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trainer.metrics import auc, hits_at

scored = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=30)


@given(scored)
def test_auc_is_the_share_of_pairs_in_order(pairs: list[tuple[int, bool]]):
    positives = [score for score, positive in pairs if positive]
    negatives = [score for score, positive in pairs if not positive]
    found = auc([score for score, _ in pairs], [positive for _, positive in pairs])
    if not positives or not negatives:
        assert math.isnan(found)
        return
    wins = sum((p > n) + 0.5 * (p == n) for p in positives for n in negatives)
    assert math.isclose(found, wins / (len(positives) * len(negatives)))


def test_a_perfect_and_a_reversed_order():
    assert auc([3, 2, 1], [True, False, False]) == 1.0
    assert auc([1, 2, 3], [True, False, False]) == 0.0


def test_other_positives_do_not_push_a_positive_out():
    scores = np.arange(20, 0, -1)
    is_positive = np.arange(20) < 12
    assert hits_at(scores, is_positive, 10).tolist() == [1.0] * 12


def test_a_positive_below_k_negatives_is_no_hit():
    scores = np.arange(20)
    is_positive = np.zeros(20, bool)
    is_positive[[9, 10]] = True
    # Nine of the negatives are above item 10, and the same nine above item 9.
    assert hits_at(scores, is_positive, 10).tolist() == [1.0, 1.0]
    assert hits_at(scores, is_positive, 9).tolist() == [0.0, 0.0]


@given(st.integers(1, 12), st.integers(0, 30))
def test_a_tie_counts_by_its_chance(k: int, negatives: int):
    scores, is_positive = np.zeros(negatives + 1), np.arange(negatives + 1) == 0
    assert math.isclose(hits_at(scores, is_positive, k)[0], min(1.0, k / (negatives + 1)))
