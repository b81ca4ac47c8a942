"""Measures what an extend and a reload cost on this device, at start.

A grid of extends is timed, the middle of several repeats is kept, and the three
coefficients are fitted by least squares on relative error, none below zero. The residuals
are published with the fit, so that whoever predicts knows how far to trust it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from relaygr.behaviours.columns import Behaviours, Candidates, Cross, FeatureSpec, Profile
from relaygr.domain.chain import PAGE_TOKENS
from relaygr.domain.cost import CostModel
from relaygr.model.interface import PageView, RelayModel
from services.ranker.adapters.device.interface import Device

REPEATS = 5
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


def measure(model: RelayModel, arena: torch.Tensor, device: Device) -> CostModel:
    """Time the model on this device; a few seconds. Uses the arena's first pages, before service.

    Call it on the thread that will compute, with the same thread settings.
    """
    spec = model.spec
    token_bytes = model.token_elements * arena.element_size()
    samples = list(_samples(model, arena, device))
    fixed_ns, token_ns, pair_ns = fit(samples)
    cost = CostModel(
        fixed_ns=fixed_ns,
        token_ns=token_ns,
        pair_ns=pair_ns,
        reload_fixed_ns=RELOAD_FIXED_NS,
        reload_byte_ns=_reload_byte_ns(arena, device),
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


def _samples(model: RelayModel, arena: torch.Tensor, device: Device) -> Iterator[Sample]:
    window = model.spec.limits.window_behaviours_max
    reach = arena.shape[0] * PAGE_TOKENS
    lengths = sorted({min(window, n) for n in (64, 128, 256, 512, 1024, 2048, 4096)})
    candidates = min(CANDIDATES_TYPICAL, model.spec.limits.candidates_max)
    stop = time.monotonic() + SECONDS_MAX
    for length in lengths:
        if time.monotonic() > stop:
            return
        # From nothing (pre-infer), with candidates (full inference), and candidates on psi.
        yield _time(model, arena, device, 0, length, 0)
        yield _time(model, arena, device, 0, length, candidates)
        yield _time(model, arena, device, min(length, reach), 1, candidates)


def _time(model: RelayModel, arena: torch.Tensor, device: Device, context: int, causal: int, candidates: int) -> Sample:
    x_TD = _rows(model, causal, candidates)
    page_ids = tuple(range(min(arena.shape[0], -(-max(context, causal) // PAGE_TOKENS))))
    pages = PageView(arena, page_ids, context) if context else None
    # Pre-infers write their K/V; ranks do not.
    can_hold = causal <= arena.shape[0] * PAGE_TOKENS
    write = PageView(arena, page_ids, 0) if can_hold and not candidates and not context else None
    times = []
    for _ in range(REPEATS):
        device.synchronize()
        begin = time.perf_counter_ns()
        for _step in model.extend(x_TD, candidates, pages, write):
            pass
        device.synchronize()
        times.append(time.perf_counter_ns() - begin)
    pairs = causal * context + causal * (causal + 1) // 2 + candidates * (context + causal + 1)
    return Sample(causal + candidates, pairs, float(np.median(times)))


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


def _reload_byte_ns(arena: torch.Tensor, device: Device) -> float:
    pages = device.host_pages(arena, range(min(8, arena.shape[0])))
    sources: list[NDArray[np.uint8]] = [page.copy() for page in pages]
    begin = time.perf_counter_ns()
    for page, source in zip(pages, sources, strict=True):
        np.copyto(page, source)
    device.upload(arena, range(len(pages)), pages)
    elapsed = time.perf_counter_ns() - begin
    # Twice: the digest reads every byte once more.
    return 2.0 * elapsed / sum(page.nbytes for page in pages)
