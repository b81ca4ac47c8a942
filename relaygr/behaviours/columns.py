"""Behaviours, candidates and features as numpy columns, and their way to and from messages.

Columns are little-endian, read-only and share the memory of the message they came from.
What leaves a `from_pb` is valid: lengths agree, time does not run backwards, numbers are
numbers. So nothing behind the edge checks again.

Shapes: n behaviours or candidates, k cross tokens; widths as the model declares them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from relaygr.behaviours.wire import bad, check_timestamps, count_within, matrix, read_only, vector
from relaygr.domain.chain import Chain
from relaygr.v1 import common_pb2, ranker_pb2

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

ACTION_DEFAULT = 1
"""Action code of behaviours that came without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSpec:
    """The feature widths a model declares; all empty for a model of ids and times alone."""

    behaviour_dense: int = 0
    behaviour_categorical: tuple[int, ...] = ()
    """Vocabulary size of each categorical column; as for the other categorical fields."""
    candidate_dense: int = 0
    candidate_categorical: tuple[int, ...] = ()
    user_dense: int = 0
    user_categorical: tuple[int, ...] = ()
    cross_dense: int = 0


class Columns:
    """What the column classes share: read-only arrays, equality by value."""

    __slots__ = ()

    def _seal(self, **dtypes: tuple[str, int]) -> None:
        for name, (dtype, dimensions) in dtypes.items():
            array = getattr(self, name)
            assert array.dtype == dtype and array.ndim == dimensions, f"{name}: {array.dtype}, {array.shape}"
            object.__setattr__(self, name, read_only(array))

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        names = [field.name for field in fields(self)]  # type: ignore[arg-type]
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in names)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True, eq=False)
class Behaviours(Columns):
    """Behaviours in time order."""

    item_ids: NDArray[np.int64]
    actions: NDArray[np.int32]
    timestamps_s: NDArray[np.int64]
    dense: NDArray[np.float32]
    categorical: NDArray[np.int32]

    def __post_init__(self) -> None:
        self._seal(item_ids=("<i8", 1), actions=("<i4", 1), timestamps_s=("<i8", 1))
        self._seal(dense=("<f4", 2), categorical=("<i4", 2))
        assert all(len(getattr(self, field.name)) == len(self.item_ids) for field in fields(self))

    def __len__(self) -> int:
        return len(self.item_ids)

    @classmethod
    def of(
        cls,
        item_ids: ArrayLike,
        timestamps_s: ArrayLike,
        actions: ArrayLike | None = None,
        dense: ArrayLike | None = None,
        categorical: ArrayLike | None = None,
    ) -> Self:
        """Make behaviours from lists or arrays of the caller's; values are converted, not checked."""
        items = np.ascontiguousarray(item_ids, "<i8")
        n = len(items)
        return cls(
            items,
            np.full(n, ACTION_DEFAULT, "<i4") if actions is None else np.ascontiguousarray(actions, "<i4"),
            np.ascontiguousarray(timestamps_s, "<i8"),
            np.zeros((n, 0), "<f4") if dense is None else np.ascontiguousarray(dense, "<f4"),
            np.zeros((n, 0), "<i4") if categorical is None else np.ascontiguousarray(categorical, "<i4"),
        )

    @classmethod
    def empty(cls, dense_width: int = 0, categorical_width: int = 0) -> Self:
        """No behaviours, with these feature widths."""
        return cls.of([], [], dense=np.zeros((0, dense_width)), categorical=np.zeros((0, categorical_width)))

    def slice(self, first: int, end: int) -> Self:
        """Behaviours [first, end), sharing memory."""
        assert 0 <= first <= end <= len(self)
        return type(self)(*(getattr(self, field.name)[first:end] for field in fields(self)))

    def concat(self, other: Self) -> Self:
        """These behaviours, then the other's; widths must be equal."""
        if not len(other):
            return self
        if not len(self):
            return other
        pairs = ((getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        return type(self)(*(np.concatenate(pair) for pair in pairs))

    @classmethod
    def from_pb(
        cls,
        pb: common_pb2.Behaviours,
        dense_width: int,
        categorical_width: int,
        field: str,
        *,
        count_max: int | None = None,
        categorical_sizes: tuple[int, ...] = (),
    ) -> Self:
        """Read a message without copying.

        Args:
            pb: the message.
            dense_width: dense features the model declares.
            categorical_width: categorical features the model declares.
            field: path of the message in the request, for errors.
            count_max: most behaviours allowed.
            categorical_sizes: vocabulary sizes, to check values against; empty: not checked.

        Raises:
            InvalidRequest: names the field and what is wrong with it.
        """
        n = count_within(pb.count, field, 0, count_max)
        timestamps_s = vector(pb.timestamps_s, "<i8", n, f"{field}.timestamps_s")
        check_timestamps(timestamps_s, f"{field}.timestamps_s")
        if pb.actions:
            actions = vector(pb.actions, "<i4", n, f"{field}.actions")
        else:
            actions = np.full(n, ACTION_DEFAULT, "<i4")
        return cls(
            vector(pb.item_ids, "<i8", n, f"{field}.item_ids"),
            actions,
            timestamps_s,
            matrix(pb.dense, "<f4", n, dense_width, f"{field}.dense"),
            matrix(pb.categorical, "<i4", n, categorical_width, f"{field}.categorical", categorical_sizes),
        )

    def to_pb(self) -> common_pb2.Behaviours:
        """The message; empty feature columns stay empty."""
        return common_pb2.Behaviours(count=len(self), **_bytes_of(self))


@dataclass(frozen=True, slots=True, eq=False)
class Profile(Columns):
    """Features of the user: the first token of every prefix."""

    dense: NDArray[np.float32]
    categorical: NDArray[np.int32]

    def __post_init__(self) -> None:
        self._seal(dense=("<f4", 1), categorical=("<i4", 1))

    @classmethod
    def of(cls, dense: ArrayLike = (), categorical: ArrayLike = ()) -> Self:
        """Make a profile from lists or arrays; values are converted, not checked."""
        return cls(np.ascontiguousarray(dense, "<f4"), np.ascontiguousarray(categorical, "<i4"))

    @classmethod
    def empty(cls, dense_width: int = 0, categorical_width: int = 0) -> Self:
        """The profile of a user nobody knows: zeros."""
        return cls(np.zeros(dense_width, "<f4"), np.zeros(categorical_width, "<i4"))

    @classmethod
    def from_pb(
        cls,
        pb: common_pb2.UserProfile,
        dense_width: int,
        categorical_width: int,
        field: str,
        *,
        categorical_sizes: tuple[int, ...] = (),
    ) -> Self:
        """Read a message without copying; errors as in `Behaviours.from_pb`."""
        dense = matrix(pb.dense, "<f4", 1, dense_width, f"{field}.dense")
        categorical = matrix(pb.categorical, "<i4", 1, categorical_width, f"{field}.categorical", categorical_sizes)
        return cls(dense[0], categorical[0])

    def to_pb(self) -> common_pb2.UserProfile:
        """The message."""
        return common_pb2.UserProfile(**_bytes_of(self))


@dataclass(frozen=True, slots=True, eq=False)
class Candidates(Columns):
    """Items to score."""

    item_ids: NDArray[np.int64]
    dense: NDArray[np.float32]
    categorical: NDArray[np.int32]

    def __post_init__(self) -> None:
        self._seal(item_ids=("<i8", 1), dense=("<f4", 2), categorical=("<i4", 2))
        assert len(self.dense) == len(self.categorical) == len(self.item_ids)

    def __len__(self) -> int:
        return len(self.item_ids)

    @classmethod
    def of(cls, item_ids: ArrayLike, dense: ArrayLike | None = None, categorical: ArrayLike | None = None) -> Self:
        """Make candidates from lists or arrays; values are converted, not checked."""
        items = np.ascontiguousarray(item_ids, "<i8")
        n = len(items)
        return cls(
            items,
            np.zeros((n, 0), "<f4") if dense is None else np.ascontiguousarray(dense, "<f4"),
            np.zeros((n, 0), "<i4") if categorical is None else np.ascontiguousarray(categorical, "<i4"),
        )

    @classmethod
    def from_pb(
        cls,
        pb: ranker_pb2.Candidates,
        dense_width: int,
        categorical_width: int,
        field: str,
        *,
        count_max: int | None = None,
        categorical_sizes: tuple[int, ...] = (),
    ) -> Self:
        """Read a message without copying; at least one candidate. Errors as in `Behaviours.from_pb`."""
        n = count_within(pb.count, field, 1, count_max)
        return cls(
            vector(pb.item_ids, "<i8", n, f"{field}.item_ids"),
            matrix(pb.dense, "<f4", n, dense_width, f"{field}.dense"),
            matrix(pb.categorical, "<i4", n, categorical_width, f"{field}.categorical", categorical_sizes),
        )

    def to_pb(self) -> ranker_pb2.Candidates:
        """The message."""
        return ranker_pb2.Candidates(count=len(self), **_bytes_of(self))


@dataclass(frozen=True, slots=True, eq=False)
class Cross(Columns):
    """Cross features: dense tokens after the short-term behaviours."""

    dense: NDArray[np.float32]

    def __post_init__(self) -> None:
        self._seal(dense=("<f4", 2))

    def __len__(self) -> int:
        return len(self.dense)

    @classmethod
    def of(cls, dense: ArrayLike) -> Self:
        """Make cross features from lists or arrays; values are converted, not checked."""
        return cls(np.ascontiguousarray(dense, "<f4"))

    @classmethod
    def empty(cls, dense_width: int = 0) -> Self:
        """No cross tokens."""
        return cls(np.zeros((0, dense_width), "<f4"))

    @classmethod
    def from_pb(
        cls, pb: ranker_pb2.CrossFeatures, dense_width: int, field: str, *, count_max: int | None = None
    ) -> Self:
        """Read a message without copying; errors as in `Behaviours.from_pb`."""
        n = count_within(pb.count, field, 0, count_max)
        if n and not dense_width:
            raise bad(f"{field}.count", "the model takes no cross features")
        if n and not pb.dense:
            raise bad(f"{field}.dense", "empty, although count says there are cross features")
        return cls(matrix(pb.dense, "<f4", n, dense_width, f"{field}.dense"))

    def to_pb(self) -> ranker_pb2.CrossFeatures:
        """The message."""
        return ranker_pb2.CrossFeatures(count=len(self), **_bytes_of(self))


def chain_of(profile: Profile, behaviours: Behaviours) -> Chain:
    """The token chain of a prefix: the user token as seed, then one token per behaviour.

    Feature widths belong to the seed, so that equal bytes under other widths differ.
    """
    dense_width, categorical_width = behaviours.dense.shape[1], behaviours.categorical.shape[1]
    widths = struct.pack("<4I", len(profile.dense), len(profile.categorical), dense_width, categorical_width)
    seed = widths + profile.dense.tobytes() + profile.categorical.tobytes()
    arrays: list[NDArray[Any]] = [behaviours.item_ids, behaviours.actions, behaviours.timestamps_s]
    arrays += [matrix_ for matrix_ in (behaviours.dense, behaviours.categorical) if matrix_.shape[1]]
    row_bytes = [array.itemsize * (array.shape[1] if array.ndim == 2 else 1) for array in arrays]
    return Chain(seed, [_view(array) for array in arrays], row_bytes, len(behaviours))


def _view(array: NDArray[Any]) -> memoryview:
    # A memoryview with a zero in its shape cannot be cast to bytes.
    return array.reshape(-1).view(np.uint8).data if array.size else memoryview(b"")


def _bytes_of(columns: Columns) -> dict[str, bytes]:
    return {field.name: getattr(columns, field.name).tobytes() for field in fields(columns)}  # type: ignore[arg-type]
