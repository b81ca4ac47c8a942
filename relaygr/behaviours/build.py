"""Builds a store directory from a log, in memory that does not grow with the log.

Rows are spooled to disk as they come, then users are taken in ranges of id that fit
memory, each sorted by (user, time) with the log's order kept among equals. The new
generation becomes visible by one rename of meta.json.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from relaygr.behaviours.columns import Profile
from relaygr.behaviours.log import LogError, Rows, read_log
from relaygr.behaviours.store import COLUMN_FILES, META_FILE, USER_FILES, StoreError, StoreMeta
from relaygr.behaviours.wire import TIMESTAMP_END_S
from relaygr.domain.identity import TENANT_DEFAULT

SORT_ROWS = 4_000_000
"""Rows sorted in memory at once: about 0.4 GB with the sort's own arrays."""
SCAN_ROWS = 1 << 20


def build_store(
    source: Path | str,
    out_dir: Path | str,
    *,
    tenant: str = TENANT_DEFAULT,
    profiles: Mapping[int, Profile] | None = None,
) -> StoreMeta:
    """Build a store from a CSV or Parquet log; see `log.py` for what it may look like.

    Raises:
        LogError: names line and column.
    """
    return build_from_rows(read_log(Path(source)), out_dir, tenant=tenant, profiles=profiles)


def build_from_rows(
    chunks: Iterable[Rows],
    out_dir: Path | str,
    *,
    tenant: str = TENANT_DEFAULT,
    profiles: Mapping[int, Profile] | None = None,
) -> StoreMeta:
    """Build a store from chunks of a log."""
    with StoreBuilder(out_dir, tenant=tenant) as builder:
        for rows in chunks:
            builder.add(rows)
        return builder.finish(profiles or {})


class StoreBuilder:
    """Takes rows in any order, then writes a generation. A context manager: leaving drops the spool."""

    def __init__(
        self,
        out_dir: Path | str,
        *,
        tenant: str = TENANT_DEFAULT,
        dense_width: int = 0,
        categorical_width: int = 0,
        sort_rows: int = SORT_ROWS,
    ):
        self._out = Path(out_dir)
        self._out.mkdir(parents=True, exist_ok=True)
        self._tenant = tenant
        self._sort_rows = sort_rows
        self._work = Path(tempfile.mkdtemp(prefix=".building-", dir=self._out))
        self._spool = _Spool(self._work, dense_width, categorical_width)
        self._counts: dict[int, int] = {}
        self._range = (0, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._spool.close()
        shutil.rmtree(self._work, ignore_errors=True)

    def add(self, rows: Rows, dense: NDArray[Any] | None = None, categorical: NDArray[Any] | None = None) -> None:
        """Take rows; features as declared at construction."""
        if not len(rows):
            return
        low, high = int(rows.timestamps.min()), int(rows.timestamps.max())
        self._range = (min(low, self._range[0]), max(high, self._range[1])) if self._spool.rows else (low, high)
        users, counts = np.unique(rows.users, return_counts=True)
        for user, count in zip(users.tolist(), counts.tolist(), strict=True):
            self._counts[user] = self._counts.get(user, 0) + count
        self._spool.add(rows, dense, categorical)

    def finish(self, profiles: Mapping[int, Profile] | None = None) -> StoreMeta:
        """Sort, write, and make the new generation the current one.

        Raises:
            LogError: no rows, or timestamps in mixed units.
        """
        if not self._spool.rows:
            raise LogError("the log has no rows")
        profiles = profiles or {}
        divisor = _divisor(*self._range)
        users = np.array(sorted(self._counts.keys() | profiles.keys()), "<i8")
        counts = np.array([self._counts.get(user, 0) for user in users.tolist()], "<i8")
        offsets = np.concatenate([np.zeros(1, "<i8"), np.cumsum(counts)])
        directory = self._work / "generation"
        directory.mkdir()
        np.save(directory / "users.npy", users)
        np.save(directory / "offsets.npy", offsets)
        _save_profiles(directory, users, profiles)
        self._write_columns(directory, users, offsets, divisor)
        return self._publish(directory, len(users), divisor)

    def _write_columns(
        self, directory: Path, users: NDArray[np.int64], offsets: NDArray[np.int64], divisor: int
    ) -> None:
        spool = self._spool.map()
        outs = {name: _create(directory, name, spool[name]) for name in COLUMN_FILES}
        first = 0
        while first < len(users):
            # As many users as fit, at least one.
            fitting = int(np.searchsorted(offsets, offsets[first] + self._sort_rows, "right")) - 1
            end = max(first + 1, fitting)
            rows = _rows_between(spool["users"], int(users[first]), int(users[end - 1]))
            times = spool["timestamps_s"][rows] // divisor
            # lexsort is stable: equal times keep the log's order.
            order = np.lexsort((times, spool["users"][rows]))
            place = slice(int(offsets[first]), int(offsets[end]))
            for name, out in outs.items():
                out[place] = times[order] if name == "timestamps_s" else spool[name][rows[order]]
            first = end

    def _publish(self, directory: Path, users: int, divisor: int) -> StoreMeta:
        low, high = self._range
        meta = StoreMeta(
            generation=_digest(directory, self._tenant),
            tenant=self._tenant,
            users=users,
            behaviours=self._spool.rows,
            first_timestamp_s=low // divisor,
            last_timestamp_s=high // divisor,
            timestamp_divisor=divisor,
        )
        target = self._out / meta.generation
        if not target.exists():
            directory.rename(target)
        before = _current(self._out)
        staged = self._work / META_FILE
        staged.write_text(meta.dump())
        staged.replace(self._out / META_FILE)
        if before not in (None, meta.generation):
            # What a reader has mapped stays readable; only the name goes.
            shutil.rmtree(self._out / str(before), ignore_errors=True)
        return meta


class _Spool:
    """Rows on disk, in the log's order: one file of raw values per column."""

    def __init__(self, directory: Path, dense_width: int, categorical_width: int):
        self._directory = directory
        self._columns: dict[str, tuple[str, int | None]] = {
            "users": ("<i8", None),
            "item_ids": ("<i8", None),
            "actions": ("<i4", None),
            "timestamps_s": ("<i8", None),
            "dense": ("<f4", dense_width),
            "categorical": ("<i4", categorical_width),
        }
        self._files: dict[str, BinaryIO] = {name: (directory / name).open("wb") for name in self._columns}
        self.rows = 0

    def add(self, rows: Rows, dense: NDArray[Any] | None, categorical: NDArray[Any] | None) -> None:
        values = {
            "users": rows.users,
            "item_ids": rows.items,
            "actions": rows.actions,
            "timestamps_s": rows.timestamps,
            "dense": dense,
            "categorical": categorical,
        }
        for name, (dtype, width) in self._columns.items():
            shape = (len(rows),) if width is None else (len(rows), width)
            column = np.zeros(shape, dtype) if values[name] is None else np.asarray(values[name], dtype)
            assert column.shape == shape, f"{name}: shape {column.shape}, expected {shape}"
            self._files[name].write(column.tobytes())
        self.rows += len(rows)

    def map(self) -> dict[str, NDArray[Any]]:
        self.close()
        return {name: self._map(name, dtype, width) for name, (dtype, width) in self._columns.items()}

    def _map(self, name: str, dtype: str, width: int | None) -> NDArray[Any]:
        shape = (self.rows,) if width is None else (self.rows, width)
        if width == 0:
            return np.zeros(shape, dtype)
        return np.memmap(self._directory / name, dtype, "r", shape=shape).view(np.ndarray)

    def close(self) -> None:
        for file in self._files.values():
            file.close()


def _divisor(low: int, high: int) -> int:
    """What turns a log's timestamps into seconds, judged by their magnitude."""
    divisor = _unit_divisor(high)
    # Zero says nothing about the unit.
    if low and _unit_divisor(low) != divisor:
        raise LogError(f"timestamps from {low} to {high} cannot all be of one unit")
    return divisor


def _unit_divisor(timestamp: int) -> int:
    for divisor in (1, 1_000, 1_000_000, 1_000_000_000):
        if timestamp < TIMESTAMP_END_S * divisor:
            return divisor
    raise LogError(f"timestamp {timestamp} is no time since 1970 in any unit down to nanoseconds")


def _rows_between(users: NDArray[np.int64], first_user: int, last_user: int) -> NDArray[np.int64]:
    """Rows of users in [first_user, last_user], scanned in pieces."""
    found = []
    for start in range(0, len(users), SCAN_ROWS):
        piece = users[start : start + SCAN_ROWS]
        found.append(np.flatnonzero((piece >= first_user) & (piece <= last_user)) + start)
    return np.concatenate(found)


def _create(directory: Path, name: str, like: NDArray[Any]) -> NDArray[Any]:
    path = directory / f"{name}.npy"
    return np.lib.format.open_memmap(path, "w+", like.dtype, shape=like.shape)  # type: ignore[no-untyped-call, no-any-return]


def _save_profiles(directory: Path, users: NDArray[np.int64], profiles: Mapping[int, Profile]) -> None:
    """One row per user; zeros for users without a profile."""
    sample = next(iter(profiles.values()), Profile.empty())
    nobody = Profile.empty(len(sample.dense), len(sample.categorical))
    rows = [profiles.get(user, nobody) for user in users.tolist()]
    np.save(directory / "profile_dense.npy", np.stack([row.dense for row in rows]))
    np.save(directory / "profile_categorical.npy", np.stack([row.categorical for row in rows]))


def _digest(directory: Path, tenant: str) -> str:
    digest = hashlib.blake2b(tenant.encode(), digest_size=16)
    for name in sorted(COLUMN_FILES + USER_FILES):
        path = directory / f"{name}.npy"
        digest.update(f"{name}:{path.stat().st_size}".encode())
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()


def _current(out_dir: Path) -> str | None:
    try:
        return StoreMeta.load(out_dir).generation
    except StoreError:
        return None
