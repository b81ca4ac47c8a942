"""Reads a log of behaviours, CSV or Parquet, in chunks.

Accepted headers: user, item, timestamp and optionally action, under the names in ALIASES;
RecBole's atomic files (`user_id:token`, tabs) too. A row that cannot be read stops the
reading with its line and column: a log that silently lost rows would be worse.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from relaygr.behaviours.columns import ACTION_DEFAULT
from relaygr.behaviours.ids import HASH_FIRST, id_of

CHUNK_ROWS = 1 << 16

ALIASES: dict[str, tuple[str, ...]] = {
    "user": ("user", "user_id", "userid", "uid", "visitor_id", "visitorid", "customer_id", "reviewerid"),
    "item": ("item", "item_id", "itemid", "iid", "movie_id", "movieid", "product_id", "video_id", "asin"),
    "timestamp": ("timestamp", "timestamp_s", "timestamp_ms", "ts", "time", "time_ms", "unix_time", "event_time"),
    "action": ("action", "action_type", "rating", "score", "stars"),
}
OPTIONAL = ("action",)


class LogError(Exception):
    """A log that cannot be read; the message names file, line and column."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A chunk of a log, in the log's order; timestamps in the log's own unit."""

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    timestamps: NDArray[np.int64]
    actions: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.users)


def read_log(path: Path, item_names: dict[int, str] | None = None) -> Iterator[Rows]:
    """Read a file chunk by chunk: `.parquet` as Parquet, everything else as delimited text.

    With `item_names`, the texts of items that are no integers are added to it under their ids.

    Raises:
        LogError: names the line and column.
    """
    if path.suffix == ".parquet":
        yield from _read_parquet(path, item_names)
    elif path.suffix == ".gz":
        try:
            with gzip.open(path, "rt", encoding="utf-8-sig", newline="") as stream:
                yield from read_delimited(stream, path.name, item_names)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise LogError(f"{path.name}: not a whole gzip file: {error}") from error
    else:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            yield from read_delimited(stream, path.name, item_names)


def read_delimited(stream: TextIO, name: str, item_names: dict[int, str] | None = None) -> Iterator[Rows]:
    """Read delimited text with a header line; the delimiter is a tab, semicolon or comma, as the header has it."""
    try:
        header_line = stream.readline()
        delimiter = next((mark for mark in "\t;," if mark in header_line), ",")
        # Tab-separated files have no quoting: a quotation mark in a title is a quotation mark.
        quote = None if delimiter == "\t" else '"'
        header = next(csv.reader(io.StringIO(header_line), delimiter=delimiter, quotechar=quote), [])
        parser = _RowParser(name, header, item_names)
        reader = csv.reader(stream, delimiter=delimiter, quotechar=quote)
        # The header was line 1.
        filled = ((reader.line_num + 1, row) for row in reader if row)
        while lines := list(islice(filled, CHUNK_ROWS)):
            yield parser.parse(lines)
    except UnicodeDecodeError as error:
        raise LogError(f"{name}: not UTF-8 text: {error}") from error
    except csv.Error as error:
        raise LogError(f"{name}: {error}") from error


def find_columns(name: str, header: Sequence[str]) -> dict[str, int]:
    """Where user, item, timestamp and action are in a header.

    Raises:
        LogError: a column is missing or there twice.
    """
    plain = [cell.split(":")[0].strip().lower() for cell in header]
    found: dict[str, int] = {}
    for column, aliases in ALIASES.items():
        places = [place for alias in aliases for place, cell in enumerate(plain) if cell == alias]
        if len(places) > 1:
            raise LogError(f"{name}: header has column {column} more than once: {', '.join(header)}")
        if places:
            found[column] = places[0]
        elif column not in OPTIONAL:
            raise LogError(f"{name}: header has no column {column} (one of {', '.join(aliases)}): {', '.join(header)}")
    return found


class _RowParser:
    """Turns rows of text into columns; remembers where the columns are."""

    def __init__(self, name: str, header: Sequence[str], item_names: dict[int, str] | None):
        self._name = name
        self._header = header
        self._places = find_columns(name, header)
        self._item = _naming(item_names)

    def parse(self, lines: Sequence[tuple[int, list[str]]]) -> Rows:
        for line, row in lines:
            if len(row) != len(self._header):
                raise LogError(f"{self._name}: line {line}: {len(row)} columns, the header has {len(self._header)}")
        actions = self._column(lines, "action", _action) if "action" in self._places else [ACTION_DEFAULT] * len(lines)
        return Rows(
            np.array(self._column(lines, "user", _id), "<i8"),
            np.array(self._column(lines, "item", self._item), "<i8"),
            np.array(self._column(lines, "timestamp", _timestamp), "<i8"),
            np.array(actions, "<i4"),
        )

    def _column(self, lines: Sequence[tuple[int, list[str]]], column: str, parse: Any) -> list[int]:
        place = self._places[column]
        try:
            return [parse(row[place]) for _, row in lines]
        except ValueError:
            pass
        # The slow way, to find the line.
        for line, row in lines:
            try:
                parse(row[place])
            except ValueError as error:
                header = self._header[place]
                raise LogError(f"{self._name}: line {line}, column {header}: {row[place]!r} {error}") from error
        raise AssertionError("a value was bad and then was not")


def _id(text: str) -> int:
    if not (text := text.strip()):
        raise ValueError("is empty")
    return id_of(text)


def _naming(names: dict[int, str] | None) -> Callable[[str], int]:
    """`_id`, noting the texts that are not their own id."""
    if names is None:
        return _id

    def parse(text: str) -> int:
        item = _id(text)
        if item >= HASH_FIRST:
            names[item] = text.strip()
        return item

    return parse


def _timestamp(text: str) -> int:
    try:
        value: float = int(text)
    except ValueError:
        try:
            value = float(text)
        except ValueError:
            return _date(text.strip())
    if not 0 <= value < 1 << 62:
        raise ValueError("is not a time since 1970")
    return math.floor(value)


def _date(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("is neither a number nor an ISO date") from None
    # A log that does not say its zone is taken to be in UTC.
    return math.floor((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def _action(text: str) -> int:
    try:
        value = float(text)
    except ValueError:
        raise ValueError("is not a number") from None
    if not math.isfinite(value) or abs(value) >= 1 << 31:
        raise ValueError("is out of range")
    # Halves go up, as ratings are read; round() would send 2.5 to 2.
    return math.floor(value + 0.5)


def _read_parquet(path: Path, item_names: dict[int, str] | None) -> Iterator[Rows]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise LogError(f"{path.name}: Parquet needs pyarrow (the extra `parquet`)") from error
    try:
        file = parquet.ParquetFile(path)
        names = list(file.schema_arrow.names)
        columns = {column: names[place] for column, place in find_columns(path.name, names).items()}
        first_row = 0
        for batch in file.iter_batches(CHUNK_ROWS, columns=list(columns.values())):
            yield _parquet_rows(batch, path.name, columns, first_row, item_names)
            first_row += batch.num_rows
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise LogError(f"{path.name}: not a whole Parquet file: {error}") from error


def _parquet_rows(
    batch: Any, name: str, columns: dict[str, str], first_row: int, item_names: dict[int, str] | None
) -> Rows:
    parsers = {"user": _id, "item": _naming(item_names), "timestamp": _timestamp, "action": _action}
    found: dict[str, NDArray[Any]] = {}
    for column, header in columns.items():
        cells = batch.column(header)
        if cells.null_count:
            row = first_row + cells.is_null().to_pylist().index(True)
            raise LogError(f"{name}: row {row}, column {header}: is empty")
        found[column] = _parquet_column(cells, parsers[column], name, header, first_row)
    actions = found.get("action", np.full(batch.num_rows, ACTION_DEFAULT, "<i4"))
    return Rows(found["user"], found["item"], found["timestamp"], actions.astype("<i4"))


def _parquet_column(cells: Any, parse: Any, name: str, header: str, first_row: int) -> NDArray[Any]:
    import pyarrow as arrow

    if arrow.types.is_timestamp(cells.type):
        return np.asarray(cells.cast(arrow.timestamp("s"), safe=False).cast(arrow.int64())).astype("<i8")
    if arrow.types.is_integer(cells.type):
        return np.asarray(cells).astype("<i8")
    values: list[int] = []
    for row, cell in enumerate(cells.to_pylist(), first_row):
        try:
            values.append(parse(str(cell)))
        except ValueError as error:
            raise LogError(f"{name}: row {row}, column {header}: {cell!r} {error}") from error
    return np.array(values, "<i8")
