"""A model so small that many requests a second fit, and histories for it: `python -m bench.tiers.soak_ground FOLDER`.

Source: tests/system/world.py has the same sizes.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.load.ground import FIRST_S, STEP_S
from relaygr.behaviours.build import build_from_rows
from relaygr.behaviours.log import Rows
from relaygr.behaviours.store import FileStore

ITEMS = 500
USERS = 1200
BEHAVIOURS = 800
"""Of each user."""
LAYERS, WIDTH, HEADS, HEAD_DIM = 2, 64, 2, 32
PAGE_BYTES = LAYERS * 2 * HEADS * HEAD_DIM * 128 * 4
"""K/V of 128 tokens, float32."""
SEED = 3


@dataclass(frozen=True, slots=True)
class SoakGround:
    """Where they are."""

    model_dir: Path
    store_dir: Path
    generation: str


def prepare(folder: Path) -> SoakGround:
    """Make both, unless they are there."""
    model_dir, store_dir = folder / "model", folder / "store"
    if not (store_dir / "meta.json").exists():
        build_from_rows(_log(), store_dir)
    if not (model_dir / "model.json").exists():
        # Torch stays out of this process.
        subprocess.run([sys.executable, "-m", "bench.tiers.soak_ground", str(model_dir)], check=True)
    return SoakGround(model_dir.resolve(), store_dir.resolve(), FileStore(store_dir).meta.generation)


def _log() -> Iterator[Rows]:
    rng = np.random.default_rng(SEED)
    times_s = FIRST_S + STEP_S * np.arange(BEHAVIOURS, dtype=np.int64)
    count = USERS * BEHAVIOURS
    yield Rows(
        users=np.repeat(np.arange(USERS, dtype=np.int64), BEHAVIOURS),
        items=rng.integers(1, ITEMS + 1, count),
        timestamps=np.tile(times_s, USERS),
        actions=rng.integers(0, 6, count).astype(np.int32),
    )


def main(arguments: list[str]) -> None:
    """Draw a model and save it."""
    from relaygr.domain.identity import ModelLimits
    from relaygr.model.checkpoint import save
    from relaygr.model.config import ModelConfig
    from relaygr.model.init import new_model

    config = ModelConfig(
        name="soak",
        version="1",
        layers=LAYERS,
        width=WIDTH,
        heads=HEADS,
        qk_dim=HEAD_DIM,
        v_dim=HEAD_DIM,
        normaliser=512,
        items=ITEMS,
        actions=6,
        positions=BEHAVIOURS + 300,
        tasks=("click", "like"),
        limits=ModelLimits(BEHAVIOURS, BEHAVIOURS // 4, 64, 256),
        head_width=32,
    )
    save(new_model(config, np.arange(1, ITEMS + 1), SEED), arguments[0])


if __name__ == "__main__":
    main(sys.argv[1:])
