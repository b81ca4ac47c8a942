"""Histories and two versions of a small model, and the scores that are right for a request.

Source: tests/system/world.py has the same sizes, and the tolerance.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bench.load.ground import as_of_s
from bench.load.traffic import PlannedRequest
from bench.tiers.soak_ground import prepare
from relaygr.behaviours.columns import Behaviours, Candidates, Cross
from relaygr.behaviours.store import FileStore
from relaygr.domain.identity import UserKey
from relaygr.model import checkpoint
from relaygr.model.init import new_model
from relaygr.model.loading import load_model
from relaygr.model.run import RankInputs, infer_full, run
from tests.chaos.load import items_of, user_of

VERSIONS = ("1", "2")
_SEED_OF_NEXT = 4


@dataclass(frozen=True, slots=True)
class Ground:
    """Where they are."""

    store_dir: Path
    models: dict[str, Path]
    """By version."""


def prepared(folder: Path) -> Ground:
    """Make what is not there yet."""
    soak = prepare(folder)
    following = (folder / "model-2").resolve()
    if not (following / "model.json").exists():
        first = load_model(soak.model_dir)
        config = replace(first.config, version=VERSIONS[1])
        checkpoint.save(new_model(config, first.vocabulary, _SEED_OF_NEXT), following)
    return Ground(soak.store_dir, {VERSIONS[0]: soak.model_dir, VERSIONS[1]: following})


class Oracle:
    """Scores of full inference in this process, without a cache of K/V anywhere; once for each distinct request."""

    def __init__(self, ground: Ground) -> None:
        torch.set_num_threads(1)
        self._store = FileStore(ground.store_dir)
        self._models = {version: load_model(path) for version, path in ground.models.items()}
        self.scores = functools.cache(self._scores)

    def of(self, request: PlannedRequest, version: str) -> NDArray[np.float32]:
        """Logits [candidates, tasks] of one version of the model."""
        behaviours = request.behaviours + request.delta
        return self.scores(user_of(request), behaviours, tuple(items_of(request).tolist()), version)

    def _scores(self, user: int, behaviours: int, items: Sequence[int], version: str) -> NDArray[np.float32]:
        key = UserKey(self._store.meta.tenant, str(user))
        now_s = as_of_s(behaviours)
        count = self._store.head(key, now_s).log_count
        inputs = RankInputs(
            profile=self._store.profile(key),
            prefix=self._store.read(key, 0, count, self._store.meta.generation),
            delta=Behaviours.of([], []),
            cross=Cross.empty(),
            candidates=Candidates.of(items),
            request_time_s=now_s,
        )
        with torch.inference_mode():
            return run(infer_full(self._models[version], inputs)).numpy()
