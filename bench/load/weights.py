"""Writes the random model of a run: python -m bench.load.weights SHAPE DTYPE SEED DIRECTORY BEHAVIOURS."""

from __future__ import annotations

import sys
from typing import cast

import numpy as np

from bench.engine.shapes import SHAPES
from bench.load.ground import ITEMS
from relaygr.domain.identity import ModelLimits
from relaygr.model.checkpoint import save
from relaygr.model.config import Dtype, ModelConfig
from relaygr.model.init import new_model

NORMALISER = 1024


def main(arguments: list[str]) -> None:
    """Draw and save."""
    name, dtype, seed, directory, behaviours = arguments
    shape = SHAPES[name]
    config = ModelConfig(
        name=name,
        version="bench",
        layers=shape.layers,
        width=shape.width,
        heads=shape.heads,
        qk_dim=shape.head_dim,
        v_dim=shape.head_dim,
        normaliser=NORMALISER,
        items=ITEMS,
        actions=8,
        positions=int(behaviours) + 1,
        tasks=("click", "like"),
        limits=ModelLimits(int(behaviours), max(1, int(behaviours) // 2), 512, 2048),
        dtype=cast(Dtype, dtype),
        head_width=shape.width,
    )
    save(new_model(config, np.arange(ITEMS), int(seed)), directory)


if __name__ == "__main__":
    main(sys.argv[1:])
