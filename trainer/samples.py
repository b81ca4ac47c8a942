"""Training batches: histories, and positives and negatives at moments of them.

A scored position is a moment before a behaviour whose second is new, because a request
sees only earlier seconds. Its positives are drawn from the next behaviours, as in the
replay; its negatives from the catalogue without the user's own items.

Shapes: B users, T behaviours, S scored positions, M candidates: first positives, then negatives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from relaygr.behaviours.columns import Behaviours, Profile
from relaygr.domain.identity import ModelLimits
from relaygr.domain.window import anchor_of
from relaygr.model.training import TrainingBatch
from trainer.split import LIKE_ACTION_MIN, Split


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """How training batches are drawn."""

    positives: int = 4
    negatives: int = 12
    ahead: int = 10
    """Positives come from this many next behaviours."""
    popular_share: float = 0.0
    """Part of the negatives drawn by popularity; the others are drawn uniformly, as in the replay."""
    batch_tokens: int = 1024
    position_step: int = 8
    """One position is scored for so many behaviours, though at least POSITIONS_MIN for a user."""


POSITIONS_MIN = 8
USERS_MAX = 16


@dataclass(frozen=True)
class Track:
    """One user's training history, items as rows of the model's table."""

    rows: NDArray[np.int64]
    behaviours: Behaviours
    profile: Profile
    moments: NDArray[np.int64]
    """Positions that may be scored."""


@dataclass(frozen=True)
class Labelled:
    """A batch and what the scores should say."""

    batch: TrainingBatch
    is_click_BSM: Tensor
    is_like_BSM: Tensor
    is_rated_BSM: Tensor
    """Where is_like means something: positives of a log with ratings."""


class Sampler:
    """Draws batches for ever, the same ones for the same seed."""

    def __init__(self, tracks: Sequence[Track], split: Split, limits: ModelLimits, options: SampleOptions, seed: int):
        self._tracks = tracks
        self._limits = limits
        self._options = options
        self._rng = np.random.default_rng(seed)
        self._rows = len(split.catalogue)
        self._has_likes = split.has_likes
        weights = np.cumsum(split.popularity, dtype=np.float64)
        self._cumulative = weights / weights[-1]

    def batches(self) -> Iterator[Labelled]:
        """Every user once a round, users of like length together."""
        while True:
            order = self._rng.permutation(len(self._tracks))
            groups = list(self._grouped(order))
            for place in self._rng.permutation(len(groups)):
                yield self._batch([self._tracks[user] for user in groups[place]])

    def _grouped(self, order: NDArray[np.int64]) -> Iterator[list[int]]:
        # Sorting pieces of a shuffled order, and not all of it, keeps the company of a user changing.
        for piece in np.array_split(order, max(1, len(order) // 256)):
            group: list[int] = []
            for user in sorted(piece.tolist(), key=lambda user: len(self._tracks[user].rows)):
                tokens = min(len(self._tracks[user].rows), self._limits.window_behaviours_max) * (len(group) + 1)
                if group and (tokens > self._options.batch_tokens or len(group) == USERS_MAX):
                    yield group
                    group = []
                group.append(user)
            if group:
                yield group

    def _batch(self, tracks: Sequence[Track]) -> Labelled:
        windows = [self._window(track) for track in tracks]
        longest = max(len(window.rows) for window in windows)
        count = max(POSITIONS_MIN, longest // self._options.position_step)
        drawn = [self._draw(window, count) for window in windows]
        positions, candidates, actions = (np.stack(parts) for parts in zip(*drawn, strict=True))
        batch = padded(windows, positions, candidates)
        is_click = np.zeros(candidates.shape, bool)
        is_click[:, :, : self._options.positives] = True
        is_like, is_rated = actions >= LIKE_ACTION_MIN, is_click & self._has_likes
        return Labelled(batch, *(torch.from_numpy(flags) for flags in (is_click, is_like, is_rated)))

    def _window(self, track: Track) -> Track:
        """The history, or a random window of it as ranking would cut it."""
        n, longest = len(track.rows), self._limits.window_behaviours_max
        if n <= longest:
            return track
        end = int(self._rng.integers(longest, n + 1))
        first = anchor_of(end, self._limits)
        inside = track.moments[(track.moments >= first) & (track.moments < end)]
        if not len(inside):
            inside = np.array([first])
        return Track(track.rows[first:end], track.behaviours.slice(first, end), track.profile, inside - first)

    def _draw(self, window: Track, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]:
        options, n = self._options, len(window.rows)
        positions = self._rng.choice(window.moments, count)
        ahead = np.minimum(options.ahead, n - positions)
        places = positions[:, None] + (self._rng.random((count, options.positives)) * ahead[:, None]).astype(np.int64)
        negatives = self._negatives(window.rows, (count, options.negatives))
        actions = np.zeros((count, options.positives + options.negatives), np.int32)
        actions[:, : options.positives] = window.behaviours.actions[places]
        return positions, np.concatenate([window.rows[places], negatives], 1), actions

    def _negatives(self, own_rows: NDArray[np.int64], shape: tuple[int, int]) -> NDArray[np.int64]:
        own = np.zeros(self._rows + 1, bool)
        own[own_rows] = True
        drawn = self._any_rows(shape)
        # Three rounds leave too few of the user's own items to matter; a user may own the whole catalogue.
        for _ in range(3):
            wrong = own[drawn]
            drawn = np.where(wrong, self._any_rows(shape), drawn)
        return drawn

    def _any_rows(self, shape: tuple[int, int]) -> NDArray[np.int64]:
        uniform = self._rng.integers(1, self._rows + 1, shape)
        if not self._options.popular_share:
            return uniform
        popular = np.searchsorted(self._cumulative, self._rng.random(shape), "right") + 1
        return np.where(self._rng.random(shape) < self._options.popular_share, popular, uniform)


def track_of(rows: NDArray[np.int64], behaviours: Behaviours, profile: Profile) -> Track:
    """A training history; rows are the items' rows in the model's table."""
    times_s = behaviours.timestamps_s
    is_moment = np.ones(len(rows), bool)
    is_moment[1:] = times_s[1:] > times_s[:-1]
    return Track(rows, behaviours, profile, np.flatnonzero(is_moment))


def padded(
    tracks: Sequence[Track],
    positions_BS: NDArray[np.int64],
    candidates_BSM: NDArray[np.int64],
    request_times_s_BS: NDArray[np.int64] | None = None,
) -> TrainingBatch:
    """A batch of histories of different lengths."""
    longest = max(max(len(track.rows) for track in tracks), int(positions_BS.max()) + 1)
    rows = np.zeros((len(tracks), longest), np.int64)
    actions = np.zeros((len(tracks), longest), np.int32)
    times_s = np.zeros((len(tracks), longest), np.int64)
    for place, track in enumerate(tracks):
        n = len(track.rows)
        rows[place, :n], actions[place, :n] = track.rows, track.behaviours.actions
        times_s[place, :n] = track.behaviours.timestamps_s
        times_s[place, n:] = times_s[place, n - 1] if n else 0
    return TrainingBatch(
        item_rows_BT=torch.from_numpy(rows),
        actions_BT=torch.from_numpy(actions),
        timestamps_s_BT=torch.from_numpy(times_s),
        lengths_B=torch.tensor([len(track.rows) for track in tracks]),
        candidate_rows_BSM=torch.from_numpy(candidates_BSM),
        positions_BS=torch.from_numpy(positions_BS),
        request_times_s_BS=None if request_times_s_BS is None else torch.from_numpy(request_times_s_BS),
        profile_dense_BF=torch.from_numpy(np.stack([track.profile.dense for track in tracks])),
        profile_categorical_BF=torch.from_numpy(np.stack([track.profile.categorical for track in tracks])),
    )
