"""Rows by item id: the table that close ids have says what a search would."""

import numpy as np
import pytest

from relaygr.model.vocabulary import DENSE_TIMES, Vocabulary

ODD = np.array([-(2**63), -1, 0, 1, 2, 3, 7, 8, 9, 10, 2**31, 2**63 - 1])


@pytest.mark.parametrize(
    "known",
    [[0], [1], [0, 1, 2], [2, 3, 9], [5, 5 + DENSE_TIMES * 3], [1, 2**40], [-5, 3], []],
    ids=str,
)
def test_the_row_of_an_item_is_its_place_plus_one_and_of_any_other_0(known):
    asked = np.unique(np.concatenate([ODD, np.array(known, np.int64)]))
    rows = Vocabulary(np.array(known, np.int64)).rows_of(asked)
    assert rows.tolist() == [known.index(one) + 1 if one in known else 0 for one in asked.tolist()]
    assert rows.dtype == np.int64


@pytest.mark.parametrize("known", [[3, 2], [2, 2]])
def test_ids_out_of_order_or_twice_are_refused(known):
    with pytest.raises(AssertionError, match="sorted and free of duplicates"):
        Vocabulary(np.array(known))


def test_only_close_ids_get_a_table():
    assert Vocabulary(np.arange(100))._table is not None
    assert Vocabulary(np.array([1, 10**12]))._table is None
