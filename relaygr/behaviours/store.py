"""The behaviour store: where histories come from when a request does not carry them.

`BehaviourStore` is what a ranker reads; a team puts its own feature store behind it.
`FileStore` is the one that ships: a directory of memory-mapped columns, users sorted,
each user's behaviours in time order.

    <dir>/meta.json                what is there, and which generation is current
    <dir>/<generation>/users.npy   sorted ids;  offsets.npy  row of each user's first behaviour, one more at the end
                       item_ids.npy  actions.npy  timestamps_s.npy  dense.npy  categorical.npy
                       profile_dense.npy  profile_categorical.npy    one row per user

The generation is a digest of the contents. A cut is good for one generation only: when the
log was built anew, counts may mean other behaviours, so reading with the old one is a miss.

Source: design, section 4 (the cut).
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from relaygr.behaviours.columns import Behaviours, Profile
from relaygr.behaviours.ids import id_of
from relaygr.domain.identity import UserKey

META_FILE = "meta.json"
STORE_FORMAT = 1
COLUMN_FILES = ("item_ids", "actions", "timestamps_s", "dense", "categorical")
USER_FILES = ("users", "offsets", "profile_dense", "profile_categorical")
_TYPES = {
    "item_ids": ("<i8", 1),
    "actions": ("<i4", 1),
    "timestamps_s": ("<i8", 1),
    "dense": ("<f4", 2),
    "categorical": ("<i4", 2),
    "users": ("<i8", 1),
    "offsets": ("<i8", 1),
    "profile_dense": ("<f4", 2),
    "profile_categorical": ("<i4", 2),
}
"""Element type and dimensions of each file."""
_GENERATION = re.compile(r"[0-9A-Za-z_-]{1,64}")


class CutGone(Exception):
    """The store can no longer reproduce a cut. An outcome, not an error to the caller: psi is a miss."""


class StoreError(Exception):
    """A directory that is not a store, or one of another format."""


@dataclass(frozen=True, slots=True)
class StoreHead:
    """How long a user's log is, and which generation says so."""

    log_count: int
    generation: str


class BehaviourStore(Protocol):
    """Where a ranker reads histories by reference."""

    def head(self, user: UserKey, as_of_s: int) -> StoreHead:
        """Behaviours of a user before a Unix second, zero meaning all; 0 for a user nobody knows."""
        ...

    def read(self, user: UserKey, first: int, end: int, generation: str) -> Behaviours:
        """Behaviours [first, end) of the user's whole log.

        Raises:
            CutGone: the generation is not current, or the log is shorter.
        """
        ...

    def profile(self, user: UserKey) -> Profile:
        """The user's features; zeros for a user nobody knows."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreMeta:
    """The content of meta.json."""

    generation: str
    tenant: str
    users: int
    behaviours: int
    first_timestamp_s: int
    last_timestamp_s: int
    timestamp_divisor: int
    """What the log's timestamps were divided by to become seconds: 1, 1000 (milliseconds), ..."""
    format: int = STORE_FORMAT

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read meta.json.

        Raises:
            StoreError: it is not there or not ours.
        """
        try:
            found = json.loads((directory / META_FILE).read_text())
            meta = cls(**found)
            meta._check_values()
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise StoreError(f"{directory} is not a behaviour store: {error}") from error
        if meta.format != STORE_FORMAT:
            raise StoreError(f"{directory} has store format {meta.format}, this program reads {STORE_FORMAT}")
        return meta

    def _check_values(self) -> None:
        if not isinstance(self.generation, str) or not _GENERATION.fullmatch(self.generation):
            raise ValueError("generation must be letters and digits: it names a directory")
        if not isinstance(self.tenant, str):
            raise ValueError("tenant must be a text")
        for name in ("users", "behaviours", "first_timestamp_s", "last_timestamp_s", "timestamp_divisor", "format"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise ValueError(f"{name} must be a whole number")

    def dump(self) -> str:
        """The text of meta.json."""
        return json.dumps(asdict(self), indent=2) + "\n"


class FileStore:
    """Histories from a directory, memory-mapped; holds users of one tenant.

    Reads share the mapping and copy nothing. The directory may be built anew meanwhile:
    what is mapped stays readable, and `refresh` takes the new generation.
    """

    def __init__(self, path: Path | str):
        self._path = Path(path)
        self._open = _open(self._path)

    @property
    def meta(self) -> StoreMeta:
        """What is open."""
        return self._open.meta

    def refresh(self) -> bool:
        """Open the current generation; True when it is another one than before."""
        if StoreMeta.load(self._path).generation == self._open.meta.generation:
            return False
        self._open = _open(self._path)
        return True

    def head(self, user: UserKey, as_of_s: int = 0) -> StoreHead:
        """See BehaviourStore."""
        opened = self._open
        start, end = opened.rows_of(user)
        count = end - start
        if as_of_s:
            count = int(np.searchsorted(opened.columns["timestamps_s"][start:end], as_of_s, "left"))
        return StoreHead(count, opened.meta.generation)

    def read(self, user: UserKey, first: int, end: int, generation: str) -> Behaviours:
        """See BehaviourStore."""
        opened = self._open
        if generation != opened.meta.generation:
            raise CutGone(f"generation {generation} is gone, {opened.meta.generation} is current")
        start, stop = opened.rows_of(user)
        if not 0 <= first <= end <= stop - start:
            raise CutGone(f"behaviours {first} to {end} of a log of {stop - start}")
        return Behaviours(*(opened.columns[name][start + first : start + end] for name in COLUMN_FILES))

    def profile(self, user: UserKey) -> Profile:
        """See BehaviourStore."""
        opened = self._open
        place = opened.place_of(user)
        dense, categorical = opened.columns["profile_dense"], opened.columns["profile_categorical"]
        if place is None:
            return Profile.empty(dense.shape[1], categorical.shape[1])
        return Profile(dense[place], categorical[place])

    def users(self) -> NDArray[np.int64]:
        """Ids of all users, sorted. `UserKey(tenant, str(id))` finds each."""
        return self._open.columns["users"]

    def column(self, name: str) -> NDArray[Any]:
        """A column of all behaviours, user by user: one of COLUMN_FILES."""
        return self._open.columns[name]


class _Opened:
    """One generation, mapped."""

    def __init__(self, path: Path):
        self.meta = StoreMeta.load(path)
        directory = path / self.meta.generation
        self.columns: dict[str, NDArray[Any]] = {name: _map(directory, name) for name in COLUMN_FILES + USER_FILES}
        users, offsets, rows = self.columns["users"], self.columns["offsets"], self.meta.behaviours
        lengths = {**dict.fromkeys(COLUMN_FILES, rows), **dict.fromkeys(USER_FILES, len(users))}
        lengths["offsets"] = len(users) + 1
        if any(len(self.columns[name]) != length for name, length in lengths.items()):
            raise StoreError(f"{directory} does not hold what {META_FILE} says")
        if offsets[0] != 0 or offsets[-1] != rows or bool((offsets[1:] < offsets[:-1]).any()):
            raise StoreError(f"{directory}: offsets do not divide the rows among the users")
        if bool((users[1:] <= users[:-1]).any()):
            raise StoreError(f"{directory}: users are not sorted, or one is there twice")

    def place_of(self, user: UserKey) -> int | None:
        if user.tenant != self.meta.tenant:
            return None
        users, wanted = self.columns["users"], id_of(user.user)
        place = int(np.searchsorted(users, wanted))
        return place if place < len(users) and users[place] == wanted else None

    def rows_of(self, user: UserKey) -> tuple[int, int]:
        place = self.place_of(user)
        if place is None:
            return 0, 0
        offsets = self.columns["offsets"]
        return int(offsets[place]), int(offsets[place + 1])


def _open(path: Path) -> _Opened:
    try:
        return _Opened(path)
    except StoreError:
        # A build may have replaced the generation between reading its name and opening it.
        return _Opened(path)


def _map(directory: Path, name: str) -> NDArray[Any]:
    path = directory / f"{name}.npy"
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:
        # numpy reads a file's head with Python's own parser, and lets through whatever that has to say.
        raise StoreError(f"{path} cannot be read: {error}") from error
    dtype, dimensions = _TYPES[name]
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != dimensions:
        raise StoreError(f"{path} does not hold {dtype} in {dimensions} dimensions")
    # The plain array type: slicing a memmap costs several times more.
    return array.view(np.ndarray)
