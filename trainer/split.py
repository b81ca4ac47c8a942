"""The earlier part trains, the later part is replayed: one moment divides the whole log.

A split by user or at random would let the model learn from what other people did after
the request. For MovieLens-100k, 0.8 puts the moment at 7 March 1998: 20,000 behaviours of 301
users come later, 12,042 of them with at least 50 earlier ones of the same user, which makes 1,156 requests.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relaygr.behaviours.columns import Behaviours, Profile
from relaygr.behaviours.log import LogError
from relaygr.behaviours.store import FileStore
from relaygr.domain.identity import UserKey

TRAIN_SHARE = 0.8
LIKE_ACTION_MIN = 4
"""An action of at least this, on a scale to five, says that the user liked the item."""


@dataclass(frozen=True)
class History:
    """A user's whole log; `train_count` behaviours of it are before the split."""

    user: int
    profile: Profile
    behaviours: Behaviours
    train_count: int


@dataclass(frozen=True)
class Split:
    """A divided log."""

    time_s: int
    """Behaviours before this Unix second train."""
    histories: tuple[History, ...]
    catalogue: NDArray[np.int64]
    """Items of the training part, sorted: what the model knows."""
    popularity: NDArray[np.int64]
    """How often each of them occurs there."""

    has_likes: bool
    """The training part holds actions on both sides of LIKE_ACTION_MIN, so that liking can be learnt."""

    def popularity_of(self, item_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Occurrences in the training part; 0 for items that are not in it."""
        places = np.minimum(np.searchsorted(self.catalogue, item_ids), len(self.catalogue) - 1)
        return np.where(self.catalogue[places] == item_ids, self.popularity[places], 0)


def split_store(store: FileStore, train_share: float = TRAIN_SHARE) -> Split:
    """Divide a store's log at the moment before which `train_share` of it lies.

    Raises:
        LogError: the log does not extend over time.
    """
    times_s = store.column("timestamps_s")
    time_s = int(np.partition(times_s, int(len(times_s) * train_share))[int(len(times_s) * train_share)])
    early = times_s < time_s
    if not early.any():
        raise LogError(f"the log cannot be split by time: {len(times_s)} behaviours, none before {time_s}")
    histories = []
    for user in store.users().tolist():
        key = UserKey(store.meta.tenant, str(user))
        head = store.head(key)
        behaviours = store.read(key, 0, head.log_count, head.generation)
        histories.append(History(user, store.profile(key), behaviours, store.head(key, time_s).log_count))
    catalogue, popularity = np.unique(store.column("item_ids")[early], return_counts=True)
    liked = store.column("actions")[early] >= LIKE_ACTION_MIN
    return Split(time_s, tuple(histories), catalogue, popularity, bool(liked.any() and not liked.all()))
