"""How long full inference takes alone, and so which lengths the profile's shares of the budget are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bench.load.callers import DirectCaller, Target, no_wait
from bench.load.traffic import PlannedRequest
from relaygr.telemetry import Telemetry

L0_SHARE, L1_SHARE = 0.5, 0.7
GRID_SHARES = (0.3, 0.45, 0.65)
"""Lengths tried, as shares of the budget by the instance's own prediction; the answer is read off between them."""
REQUESTS = 24
STEP_TOKENS = 8


def measure_alone(target: Target, lengths: Sequence[int], candidates: int) -> list[tuple[int, float]]:
    """Length in tokens and median latency of a rank as its caller sees it, milliseconds; one request at a time."""
    return asyncio.run(_measure(target, lengths, candidates))


def length_at(share_ms: float, seen: Sequence[tuple[int, float]]) -> int:
    """The length at which full inference takes so long, read off a parabola through what was measured."""
    tokens, times_ms = np.array(seen, float).T
    curve = np.polynomial.Polynomial.fit(tokens, times_ms, min(2, len(seen) - 1)).convert()
    grid = np.arange(tokens.min() / 2, tokens.max() * 1.5, STEP_TOKENS)
    best = grid[np.argmin(np.abs(curve(grid) - share_ms))]
    return int(STEP_TOKENS * round(float(best) / STEP_TOKENS))


async def _measure(target: Target, lengths: Sequence[int], candidates: int) -> list[tuple[int, float]]:
    telemetry = Telemetry.setup("relaygr-load", "alone", None, b"relaygr-load-generator")
    caller = DirectCaller(target, telemetry)
    try:
        return [(tokens, await _median_ms(caller, tokens, candidates)) for tokens in lengths]
    finally:
        await caller.close()
        telemetry.shutdown()


async def _median_ms(caller: DirectCaller, tokens: int, candidates: int) -> float:
    request = PlannedRequest(
        index=0,
        user=0,
        arrives_ns=0,
        retrieval_ns=0,
        pre_processing_ns=0,
        behaviours=tokens - 1,
        delta=0,
        candidates=candidates,
        visit=0,
        is_counted=True,
    )
    times_ms = []
    for number in range(REQUESTS):
        outcome = await caller.ask(replace(request, index=number, user=number), no_wait)
        assert not outcome.error, outcome.error
        times_ms.append(outcome.call_ns / 1e6)
    # The first ones open connections and pages.
    return round(float(np.median(times_ms[REQUESTS // 4 :])), 3)
