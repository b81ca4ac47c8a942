"""Measures what an extend and a reload cost on this device, at start.

A grid of extends is timed in rounds, the lower quartile of each point is kept, since other
processes that start at the same time only ever add, and the three
coefficients are fitted by least squares on relative error, none below zero. The residuals
are published with the fit, so that whoever predicts knows how far to trust it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from relaygr.behaviours.columns import Behaviours, Candidates, Cross, FeatureSpec, Profile
from relaygr.domain.chain import PAGE_TOKENS
from relaygr.domain.cost import CostModel
from relaygr.model.interface import PageView, RelayModel
from services.ranker.adapters.device.interface import Device
from services.ranker.adapters.dram_format_int8 import Int8Codec

ROUNDS_MIN = 3
ROUNDS_MAX = 9
KEPT_QUANTILE = 0.25
"""Of a point's rounds."""
CANDIDATES_TYPICAL = 128
SECONDS_MAX = 6.0
RELOAD_FIXED_NS = 3_000_000.0
"""Three control calls of a reload (lookup, prepare, complete), about 1 ms each under load."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One timed extend."""

    new_tokens: int
    pairs: int
    elapsed_ns: float


def measure(model: RelayModel, arena: torch.Tensor, device: Device, codec: Int8Codec | None = None) -> CostModel:
    """Time the model on this device; a few seconds. Uses the arena's first pages, before service.

    With `codec` a reload is of pages that it stored. Its time is told by the byte of the device all the same.
    Call it on the thread that will compute, with the same thread settings.
    """
    spec = model.spec
    token_bytes = model.token_elements * arena.element_size()
    samples = _samples(model, arena, device)
    fixed_ns, token_ns, pair_ns = fit(samples)
    cost = CostModel(
        fixed_ns=fixed_ns,
        token_ns=token_ns,
        pair_ns=pair_ns,
        reload_fixed_ns=RELOAD_FIXED_NS,
        reload_byte_ns=_reload_byte_ns(arena, device, codec),
        relative_error=0.0,
        token_bytes=token_bytes,
        candidates_typical=min(CANDIDATES_TYPICAL, spec.limits.candidates_max),
    )
    errors = [abs(s.elapsed_ns / _predict(cost, s) - 1.0) for s in samples]
    return CostModel(
        **{field: getattr(cost, field) for field in CostModel.__dataclass_fields__ if field != "relative_error"},
        relative_error=float(np.quantile(errors, 0.99)),
    )


def fit(samples: list[Sample]) -> tuple[float, float, float]:
    """Least squares on relative error; a coefficient that would be negative is held at zero."""
    elapsed = np.array([s.elapsed_ns for s in samples])
    terms = np.array([[1.0, s.new_tokens, s.pairs] for s in samples])
    active = [0, 1, 2]
    while active:
        weighted = terms[:, active] / elapsed[:, None]
        solution, *_ = np.linalg.lstsq(weighted, np.ones(len(samples)), rcond=None)
        if (solution >= 0).all():
            result = np.zeros(3)
            result[active] = solution
            return float(result[0]), float(result[1]), float(result[2])
        active.pop(int(np.argmin(solution)))
    raise AssertionError("times cannot all be negative")


def _predict(cost: CostModel, sample: Sample) -> float:
    return cost.fixed_ns + cost.token_ns * sample.new_tokens + cost.pair_ns * sample.pairs


def _samples(model: RelayModel, arena: torch.Tensor, device: Device) -> list[Sample]:
    """The grid, timed in rounds.

    A disturbance then spoils one round of many points, which the quartile leaves out, and
    not all repeats of one point.
    """
    points = _grid(model, arena)
    bodies = [_Timed(model, arena, device, point) for point in points]
    times: list[list[float]] = [[] for _ in points]
    stop = time.monotonic() + SECONDS_MAX
    for round_index in range(ROUNDS_MAX):
        if round_index >= ROUNDS_MIN and time.monotonic() > stop:
            break
        for body, measured in zip(bodies, times, strict=True):
            measured.append(body.run())
    return [
        Sample(point.causal + point.candidates, point.pairs, float(np.quantile(measured, KEPT_QUANTILE)))
        for point, measured in zip(points, times, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _Point:
    """One extend of the grid."""

    context: int
    causal: int
    candidates: int

    @property
    def pairs(self) -> int:
        """(query, key) pairs that the mask lets through."""
        own = self.causal * (self.causal + 1) // 2
        return self.causal * self.context + own + self.candidates * (self.context + self.causal + 1)


def _grid(model: RelayModel, arena: torch.Tensor) -> list[_Point]:
    window = model.spec.limits.window_behaviours_max
    reach = arena.shape[0] * PAGE_TOKENS
    candidates = min(CANDIDATES_TYPICAL, model.spec.limits.candidates_max)
    points = []
    for length in sorted({min(window, n) for n in (64, 128, 256, 512, 1024, 2048, 4096)}):
        # From nothing (pre-infer), with candidates (full inference), and candidates on psi.
        points += [_Point(0, length, 0), _Point(0, length, candidates), _Point(min(length, reach), 1, candidates)]
    return points


class _Timed:
    """One extend, ready to be run again and again."""

    def __init__(self, model: RelayModel, arena: torch.Tensor, device: Device, point: _Point):
        self._model, self._device, self._candidates = model, device, point.candidates
        self._x_TD = _rows(model, point.causal, point.candidates)
        pages = -(-max(point.context, point.causal) // PAGE_TOKENS)
        page_ids = tuple(range(min(arena.shape[0], pages)))
        self._context = PageView(arena, page_ids, point.context) if point.context else None
        # Pre-infers write their K/V; ranks do not.
        is_pre_infer = not point.candidates and not point.context and pages <= arena.shape[0]
        self._write = PageView(arena, page_ids, 0) if is_pre_infer else None

    def run(self) -> float:
        """Its time, nanoseconds."""
        self._device.synchronize()
        begun = time.perf_counter_ns()
        for _step in self._model.extend(self._x_TD, self._candidates, self._context, self._write):
            pass
        self._device.synchronize()
        return float(time.perf_counter_ns() - begun)


def _rows(model: RelayModel, causal: int, candidates: int) -> torch.Tensor:
    features: FeatureSpec = model.spec.features
    behaviours = Behaviours.of(
        np.arange(causal),
        np.arange(causal),
        dense=np.zeros((causal, features.behaviour_dense)),
        categorical=np.zeros((causal, len(features.behaviour_categorical))),
    )
    profile = Profile.empty(features.user_dense, len(features.user_categorical))
    x_TD = model.embed_prefix(profile, behaviours, 1, causal + 1)
    if not candidates:
        return x_TD
    items = Candidates.of(
        np.arange(candidates),
        np.zeros((candidates, features.candidate_dense)),
        np.zeros((candidates, len(features.candidate_categorical))),
    )
    empty = Behaviours.empty(features.behaviour_dense, len(features.behaviour_categorical))
    _, x_CD = model.embed_suffix(causal, causal, empty, Cross.empty(features.cross_dense), items, causal)
    return torch.cat([x_TD, x_CD])


def _reload_byte_ns(arena: torch.Tensor, device: Device, codec: Int8Codec | None) -> float:
    page_ids = range(min(8, arena.shape[0], device.staged_pages_max))
    staged = device.stage(arena, page_ids)
    assert staged is not None, "before service nobody else holds staging buffers"
    device_bytes = sum(page.nbytes for page in staged.views)
    stored = staged.views if codec is None else [np.ones(codec.stored_bytes, np.uint8) for _ in staged.views]
    if codec is not None:
        for page, codes in zip(staged.views, stored, strict=True):
            codec.encode(page, codes)
    sources = [page.copy() for page in stored]
    begun_ns = time.perf_counter_ns()
    for target, source in zip(stored, sources, strict=True):
        np.copyto(target, source)
    copied_ns = time.perf_counter_ns()
    if codec is not None:
        for codes, page in zip(stored, staged.views, strict=True):
            codec.decode(codes, page)
    device.upload(arena, page_ids, staged)
    ended_ns = time.perf_counter_ns()
    device.release(staged)
    # The copy twice: the digest reads every byte once more.
    return (2.0 * (copied_ns - begun_ns) + ended_ns - copied_ns) / device_bytes
