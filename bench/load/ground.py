"""The model and the histories of a run: made once for a profile and a seed, then found again.

The weights are random: what is measured does not depend on them. Histories are long enough for
the longest length asked for; how much of one a request sees is said by its time (`as_of_s`).
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from bench.load.profile import Model
from relaygr.behaviours.build import build_from_rows
from relaygr.behaviours.log import Rows
from relaygr.behaviours.store import FileStore

ITEMS = 50_000
FIRST_S = 1_600_000_000
STEP_S = 60
"""Between two behaviours of a user, seconds."""
_USERS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Ground:
    """Where they are."""

    model_dir: Path
    store_dir: Path
    generation: str


def as_of_s(behaviours: int) -> int:
    """The Unix second before which a user has so many behaviours."""
    return FIRST_S + STEP_S * behaviours


def prepare(model: Model, cache_dir: Path) -> Ground:
    """Make what is not there yet; about half a minute."""
    name = hashlib.blake2b(json.dumps(asdict(model)).encode(), digest_size=6).hexdigest()
    folder = cache_dir / name
    model_dir, store_dir = folder / "model", folder / "store"
    if not (store_dir / "meta.json").exists():
        build_from_rows(_log(model), store_dir)
    if not (model_dir / "model.json").exists():
        # Torch stays out of this process, whose memory the generator's children inherit.
        command = [
            sys.executable,
            "-m",
            "bench.load.weights",
            model.shape,
            model.dtype,
            str(model.seed),
            str(model_dir),
        ]
        subprocess.run([*command, str(model.behaviours)], check=True)
    return Ground(model_dir, store_dir, FileStore(store_dir).meta.generation)


def _log(model: Model) -> Iterator[Rows]:
    rng = np.random.default_rng(model.seed)
    times_s = FIRST_S + STEP_S * np.arange(model.behaviours, dtype=np.int64)
    for first in range(0, model.users, _USERS_AT_ONCE):
        users = np.arange(first, min(first + _USERS_AT_ONCE, model.users), dtype=np.int64)
        count = len(users) * model.behaviours
        yield Rows(
            users=np.repeat(users, model.behaviours),
            items=rng.integers(0, ITEMS, count),
            timestamps=np.tile(times_s, len(users)),
            actions=rng.integers(0, 8, count).astype(np.int32),
        )
