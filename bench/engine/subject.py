"""The engine under measurement: a random model, one user's pages, and the four jobs as the ranker runs them.

`build_model` is the one place that knows how a kernel is asked for.

Source: design, section 3 (ranker).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.engine.shapes import APPEND_TOKENS, CANDIDATES, CANDIDATES_TYPICAL, TOKENS, Case, Shape
from relaygr.behaviours.columns import Behaviours, Candidates, Cross, Profile
from relaygr.domain.chain import PAGE_TOKENS
from relaygr.domain.identity import ModelLimits
from relaygr.model.checkpoint import random_model
from relaygr.model.config import Dtype, ModelConfig
from relaygr.model.hstu import HstuModel
from relaygr.model.interface import PageView, new_arena
from relaygr.model.run import RankInputs, append, infer_full, pre_infer, rank_on_psi, run

ITEMS = 20_000
NORMALISER = 1024
NOW_S = 1_700_000_000
SERVED_CHUNK_TOKENS = 256
"""RankerConfig.chunk_tokens: a served pre-infer advances by so many."""


class Unavailable(Exception):
    """What was asked for is not in this build; the text says what."""


def build_model(build: Callable[..., HstuModel], *arguments: Any, kernel: str, kv_dtype: str = "") -> HstuModel:
    """What random_model or checkpoint.load builds, on the kernel asked for or not at all.

    Raises:
        Unavailable: the kernel or K/V dtype cannot serve this model here.
    """
    try:
        return build(*arguments, kernel=kernel, kv_dtype=kv_dtype)
    except ValueError as error:
        raise Unavailable(str(error)) from error


def model_of(
    name: str, shape: Shape, seed: int, *, kernel: str, dtype: Dtype = "bfloat16", kv_dtype: str = ""
) -> HstuModel:
    """A random model of these sizes; the same weights for every kernel and dtype."""
    config = model_config(name, shape, dtype)
    return build_model(random_model, config, np.arange(config.items), seed, kernel=kernel, kv_dtype=kv_dtype)


def kernel_of(model: HstuModel) -> str:
    """Which kernel a model uses, in its own words."""
    return model.kernel


def model_config(name: str, shape: Shape, dtype: Dtype = "bfloat16") -> ModelConfig:
    """A model of these sizes that takes the longest case."""
    reach = max(TOKENS) + APPEND_TOKENS
    return ModelConfig(
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
        positions=reach,
        tasks=("click", "like"),
        limits=ModelLimits(reach, 1024, 512, max(CANDIDATES)),
        dtype=dtype,
        head_width=shape.width,
    )


def random_behaviours(count: int, rng: np.random.Generator) -> Behaviours:
    """Items uniform, gaps between seconds and days."""
    gaps_s = np.exp(rng.uniform(0.0, np.log(200_000.0), count)).astype(np.int64)
    times_s = NOW_S - gaps_s.sum() + np.cumsum(gaps_s)
    return Behaviours.of(rng.integers(0, ITEMS, count), times_s, actions=rng.integers(0, 8, count))


class Subject:
    """One user's history in pages, and what is asked about it."""

    def __init__(self, model: HstuModel, tokens: int, seed: int):
        rng = np.random.default_rng(seed)
        self.model, self.tokens = model, tokens
        self._profile = Profile.empty()
        # The whole log; the prefix is its first tokens - 1 behaviours, an append takes the rest.
        self._log = random_behaviours(tokens - 1 + APPEND_TOKENS, rng)
        self.prefix_behaviours = self._log.slice(0, tokens - 1)
        self._items: NDArray[np.int64] = rng.choice(ITEMS, max(CANDIDATES), replace=False)
        pages = -(-(tokens + APPEND_TOKENS) // PAGE_TOKENS)
        self._empty = PageView(new_arena(model, pages), tuple(range(pages)), 0)
        self._psi = PageView(self._empty.arena, self._empty.page_ids, tokens)

    def prefix(self) -> PageView:
        """Pre-infer from nothing, in one pass."""
        return self._pre_infer(self.tokens)

    def prefix_chunked(self) -> PageView:
        """The same in the chunks that a ranker serves in."""
        return self._pre_infer(SERVED_CHUNK_TOKENS)

    @torch.inference_mode()
    def append(self) -> PageView:
        """The behaviours that came since, on psi; it writes the same slots each time."""
        return run(append(self.model, self._profile, self._log, self._psi, chunk_tokens=APPEND_TOKENS))

    @torch.inference_mode()
    def rank(self, candidates: int) -> torch.Tensor:
        """Logits on psi; `prefix` must have run."""
        return run(rank_on_psi(self.model, self.inputs(candidates), self._psi))

    @torch.inference_mode()
    def full(self, candidates: int = CANDIDATES_TYPICAL) -> torch.Tensor:
        """Logits from nothing."""
        return run(infer_full(self.model, self.inputs(candidates)))

    @torch.inference_mode()
    def _pre_infer(self, chunk_tokens: int) -> PageView:
        steps = pre_infer(self.model, self._profile, self.prefix_behaviours, self._empty, chunk_tokens=chunk_tokens)
        return run(steps)

    def inputs(self, candidates: int) -> RankInputs:
        """A request right after the prefix."""
        return RankInputs(
            profile=self._profile,
            prefix=self.prefix_behaviours,
            delta=Behaviours.empty(),
            cross=Cross.empty(),
            candidates=Candidates.of(self._items[:candidates]),
            request_time_s=NOW_S + 60,
        )


def subject_of(case: Case, seed: int) -> Subject:
    """The engine of a case, ready to run.

    Raises:
        Unavailable: see build_model.
    """
    return Subject(model_of(case.model, case.shape, seed, kernel=case.kernel), case.tokens, seed)
