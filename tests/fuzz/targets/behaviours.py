"""Behaviour files: logs as CSV, packed CSV and Parquet, and the memory-mapped store.

An input is one file of a log, or all files of a store; its first line says which.
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import numpy as np
import pyarrow
import pyarrow.parquet

from relaygr.behaviours.build import build_from_rows
from relaygr.behaviours.log import LogError, read_log
from relaygr.behaviours.store import META_FILE, CutGone, FileStore, StoreError
from relaygr.domain.identity import UserKey
from tests.fuzz import ground, raw
from tests.fuzz.subject import Subject, choose
from tests.fuzz.verdict import ACCEPTED, Verdict, rejected, without_field

EACH = 12
BUILT_ONE_IN = 4
"""Logs that a store is built from: ten files for each."""
SUFFIXES = {"csv": ".csv", "gz": ".csv.gz", "parquet": ".parquet"}
CELLS = (
    "",
    " ",
    "1",
    "-1",
    "u1",
    "1e3",
    "NaN",
    "inf",
    "9" * 30,
    "2020-01-01",
    "2020-01-01T00:00:00+25:00",
    '"',
    "é",
    "\0",
)
CELLS += (
    "0x10",
    "1_000",
    "9223372036854775807",
    "9223372036854775808",
    "4611686018427387904",
    "0001-01-01",
    "9999-12-31",
)
HEADERS = ("user,item,timestamp", "user_id:token\titem_id:token\ttimestamp:float\trating:float", "uid;asin;ts;stars")


class Logs(Subject):
    """Files that a store is built from, and stores."""

    def __init__(self, directory: Path, store: dict[str, bytes]) -> None:
        self._directory, self._store = directory, store

    def draw(self, random: Random) -> bytes:
        kind = choose(random, (4, "csv"), (1, "gz"), (2, "parquet"), (3, "store"))
        if kind == "store":
            return b"store\n" + raw.packed(_store(random, dict(self._store)))
        if kind == "parquet":
            written = _parquet(random)
        else:
            written = _csv(random)
            written = gzip.compress(written, 1) if kind == "gz" else written
        share = random.random()
        if share < (0.5 if kind in ("gz", "parquet") else 0.15):
            written = raw.mutated(random, written)
        return kind.encode() + b"\n" + written

    async def give(self, data: bytes) -> Verdict:
        kind, _, written = data.partition(b"\n")
        name = kind.decode("ascii", "replace")
        if name == "store":
            return self._read(raw.unpacked(written))
        if name not in SUFFIXES:
            return rejected("no such kind")
        path = self._directory / f"log{SUFFIXES[name]}"
        path.write_bytes(written)
        try:
            chunks = list(read_log(path, {}))
            if len(written) % BUILT_ONE_IN == 0:
                build_from_rows(chunks, self._directory / "built")
        except LogError as error:
            return rejected(error) if str(error) else without_field("a log without a reason")
        return ACCEPTED

    def _read(self, files: dict[str, bytes]) -> Verdict:
        directory = self._directory / "store"
        shutil.rmtree(directory, ignore_errors=True)
        generation = directory / "g"
        generation.mkdir(parents=True)
        for name, data in files.items():
            ((directory if name == META_FILE else generation) / name).write_bytes(data)
        try:
            store = FileStore(directory)
        except StoreError as error:
            return rejected(error)
        for name in ("1", "2", str(ground.STORED_USERS), "nobody"):
            user = UserKey("default", name)
            head = store.head(user, ground.BEGIN_S + 600)
            count = store.head(user).log_count
            store.profile(user)
            for first, end in ((0, head.log_count), (0, count), (count, count + 1)):
                try:
                    store.read(user, first, end, head.generation)
                except CutGone:
                    continue
        return ACCEPTED


def _csv(random: Random) -> bytes:
    header = random.choice(HEADERS)
    mark = next(one for one in "\t;," if one in header)
    rows = [
        [str(random.randrange(5)), random.choice(("7", "film")), str(1_600_000_000 + number), "3"]
        for number in range(random.choice((1, 3, 20)))
    ]
    width = header.count(mark) + 1
    lines = [mark.join(row[:width]) for row in rows]
    for _ in range(random.choice((0, 0, 0, 1, 2))):
        at = random.randrange(len(lines))
        cells = lines[at].split(mark)
        cells[random.randrange(len(cells))] = random.choice(CELLS) if random.random() < 0.7 else raw.text(random)
        lines[at] = mark.join(cells)
    written = "\n".join([header, *lines, ""]).encode()
    return raw.lines(random, written) if random.random() < 0.1 else written


def _parquet(random: Random) -> bytes:
    count = random.choice((0, 1, 5))
    columns = {
        "user": random.choice(([1] * count, ["a"] * count, [1.5] * count, [None] * count, [2**62] * count)),
        "item": random.choice(([7] * count, ["film"] * count, [b"\xff"] * count, [[1]] * count)),
        "timestamp": random.choice(
            (
                [1_600_000_000] * count,
                [1.6e9] * count,
                ["2020-01-01"] * count,
                [True] * count,
                [-5] * count,
                [2**63 - 1] * count,
            )
        ),
    }
    if random.random() < 0.5:
        columns["rating"] = random.choice(([3] * count, [2.5] * count, [float("nan")] * count, [2**40] * count))
    if random.random() < 0.1:
        del columns[random.choice(list(columns))]
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), out, compression=random.choice(("none", "snappy")))
    return out.getvalue()


def _store(random: Random, files: dict[str, bytes]) -> dict[str, bytes]:
    meta = json.loads(files[META_FILE]) | {"generation": "g"}
    files[META_FILE] = json.dumps(meta).encode()
    for _ in range(random.choice((0, 1, 1, 2))):
        name = random.choice(list(files))
        if name == META_FILE and random.random() < 0.8:
            files[name] = raw.json_bytes(random, meta)
        elif random.random() < 0.4:
            files[name] = raw.mutated(random, files[name])
        elif random.random() < 0.2:
            del files[name]
        elif name != META_FILE:
            files[name] = _array(random, files[name])
    return files


def _array(random: Random, written: bytes) -> bytes:
    """The same array with other values, of another type or of another shape."""
    try:
        array = np.load(io.BytesIO(written))
    except Exception:
        return written  # It was changed before, and numpy raises anything.
    if not array.ndim:
        return written
    match random.randrange(6):
        case 0:
            array = array.astype(random.choice(("<i4", "<f8", ">i8", "<u1", "<c16", "<U5")))
        case 1:
            array = array[: random.randrange(len(array) + 1)]
        case 2:
            array = array[::-1]
        case 3:
            array = array.reshape(random.choice(((-1, 1), (1, -1), (-1,))))
        case 4 if array.size and array.dtype.kind == "i":
            array = array.copy()
            array.flat[random.randrange(array.size)] = random.choice((-1, 0, 2**31 - 1, -(2**31)))
        case _:
            array = np.zeros((), array.dtype) if random.random() < 0.3 else np.concatenate([array, array])
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Subject]:
    made = ground.store(directory / "honest", EACH)
    files = {META_FILE: (directory / "honest" / META_FILE).read_bytes()}
    files |= {path.name: path.read_bytes() for path in (directory / "honest" / made.meta.generation).glob("*.npy")}
    yield Logs(directory, files)
