"""Rows of an item table by item id."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

DENSE_TIMES = 16
"""Ids up to so many times their number are looked up in a table of all of them, instead of searched."""


class Vocabulary:
    """Sorted item ids; the row of each is its place plus one, and row 0 is everything else's.

    Args:
        item_ids: int64, sorted and free of duplicates.
    """

    def __init__(self, item_ids: NDArray[np.int64]):
        assert bool(np.all(item_ids[1:] > item_ids[:-1])), "the vocabulary must be sorted and free of duplicates"
        self._item_ids = item_ids
        self._table = _table(item_ids)

    def rows_of(self, item_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of these items; 0 for those that are not known."""
        if self._table is not None:
            # A negative id, as an unsigned number, is beyond every table.
            places = np.minimum(item_ids.view(np.uint64), len(self._table) - 1).view(np.int64)
            rows: NDArray[np.int64] = self._table[places]
            return rows
        if not len(self._item_ids):
            return np.zeros(len(item_ids), np.int64)
        places = np.searchsorted(self._item_ids, item_ids)
        found = self._item_ids[np.minimum(places, len(self._item_ids) - 1)] == item_ids
        return np.where(found, places + 1, 0)


def _table(item_ids: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Rows by id, with one entry more for what is beyond; None where the ids lie too far apart."""
    if not len(item_ids) or item_ids[0] < 0 or item_ids[-1] >= DENSE_TIMES * len(item_ids):
        return None
    table = np.zeros(int(item_ids[-1]) + 2, np.int64)
    table[item_ids] = np.arange(1, len(item_ids) + 1)
    return table
