"""Where the behaviours come from: MovieLens-100k, or a log of the user's own.

MovieLens-100k (F. M. Harper and J. A. Konstan, 2015) is read inside the recbole wheel,
which carries it as an example; nothing is unpacked.
"""

from __future__ import annotations

import csv
import hashlib
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from relaygr.behaviours.build import build_from_rows
from relaygr.behaviours.columns import Profile
from relaygr.behaviours.log import LogError, Rows, read_delimited, read_log
from relaygr.behaviours.store import StoreMeta

MOVIELENS = "ml-100k"
WHEEL_DIR = Path(".cache/wheels")
WHEEL_PATTERN = "recbole-1.2.1-*.whl"
WHEEL_COMMAND = "pip download --no-deps recbole==1.2.1 -d .cache/wheels"
MEMBERS = "recbole/dataset_example/ml-100k/ml-100k"

AGE_STEP_YEARS, AGE_GROUPS = 10, 9
GENDERS = ("", "F", "M")
OCCUPATIONS = (
    "", "administrator", "artist", "doctor", "educator", "engineer", "entertainment", "executive", "healthcare",
    "homemaker", "lawyer", "librarian", "marketing", "none", "other", "programmer", "retired", "salesman",
    "scientist", "student", "technician", "writer",
)  # fmt: skip


@dataclass
class Dataset:
    """A log that has not been read yet, and what is known besides it."""

    name: str
    digest: str
    """Of the source's bytes."""
    source: Path
    user_categorical: tuple[int, ...] = ()
    """Vocabulary sizes of the profile's categorical features."""
    titles: dict[int, str] = field(default_factory=dict)
    """Titles of items; for a user's own log, the texts of items that are no integers."""
    profiles: dict[int, Profile] = field(default_factory=dict)

    def rows(self) -> Iterator[Rows]:
        """The log in chunks; fills `titles` on the way for a user's own log."""
        if self.name != MOVIELENS:
            yield from read_log(self.source, self.titles)
            return
        with zipfile.ZipFile(self.source) as wheel:
            yield from read_delimited(_text(wheel, "inter"), "ml-100k.inter")

    def build_store(self, out_dir: Path) -> StoreMeta:
        """Write the behaviour store."""
        return build_from_rows(self.rows(), out_dir, profiles=self.profiles)


def open_dataset(data: str, wheel_dir: Path = WHEEL_DIR) -> Dataset:
    """Open "ml-100k", or the CSV or Parquet file of that path.

    Raises:
        LogError: neither is there.
    """
    if data == MOVIELENS:
        return _movielens(wheel_dir)
    path = Path(data)
    if not path.is_file():
        raise LogError(f"{data}: no such file (give a CSV or Parquet file, or {MOVIELENS})")
    return Dataset(path.stem, _digest(path), path)


def _movielens(wheel_dir: Path) -> Dataset:
    found = sorted(wheel_dir.glob(WHEEL_PATTERN))
    if not found:
        raise LogError(f"{wheel_dir}/{WHEEL_PATTERN}: not there; run `make setup`, or: {WHEEL_COMMAND}")
    with zipfile.ZipFile(found[0]) as wheel:
        titles = {int(row["item_id"]): _title(row) for row in _table(wheel, "item")}
        profiles = {int(row["user_id"]): _profile(row) for row in _table(wheel, "user")}
    sizes = (AGE_GROUPS + 1, len(GENDERS), len(OCCUPATIONS))
    return Dataset(MOVIELENS, _digest(found[0]), found[0], sizes, titles, profiles)


def _title(row: dict[str, str]) -> str:
    return f"{row['movie_title']} ({row['release_year']})"


def _profile(row: dict[str, str]) -> Profile:
    """Age group, gender, occupation; 0 is for unknown in each."""
    age = min(int(row["age"]) // AGE_STEP_YEARS, AGE_GROUPS - 1) + 1
    gender = GENDERS.index(row["gender"]) if row["gender"] in GENDERS else 0
    occupation = OCCUPATIONS.index(row["occupation"]) if row["occupation"] in OCCUPATIONS else 0
    return Profile.of(categorical=[age, gender, occupation])


def _text(wheel: zipfile.ZipFile, kind: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(wheel.open(f"{MEMBERS}.{kind}"), encoding="utf-8", newline="")


def _table(wheel: zipfile.ZipFile, kind: str) -> Iterator[dict[str, str]]:
    with _text(wheel, kind) as text:
        reader = csv.reader(text, delimiter="\t", quotechar=None)
        header = [cell.split(":")[0] for cell in next(reader)]
        for row in reader:
            yield dict(zip(header, row, strict=True))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
