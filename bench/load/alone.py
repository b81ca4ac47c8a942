"""How long full inference takes alone, and so which lengths the profile's shares of the budget are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from bench.load.callers import DirectCaller, Target, no_wait
from bench.load.traffic import PlannedRequest
from relaygr.telemetry import Telemetry

L0_SHARE, L1_SHARE = 0.5, 0.7
GRID_SHARES = (0.3, 0.45, 0.65)
"""Lengths tried, as shares of the budget by the instance's own prediction; the answer is read off between them."""
ROUNDS, REQUESTS, REST_S = 8, 6, 2.0
"""Every length in every round: a machine's speed wanders within seconds, and what follows takes minutes."""
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
        # The first round opens connections and pages.
        await _round(caller, lengths, candidates)
        times_ms: dict[int, list[float]] = {tokens: [] for tokens in lengths}
        for _ in range(ROUNDS):
            await asyncio.sleep(REST_S)
            for tokens, took_ms in (await _round(caller, lengths, candidates)).items():
                times_ms[tokens] += took_ms
        return [(tokens, round(float(np.median(times_ms[tokens])), 3)) for tokens in lengths]
    finally:
        await caller.close()
        telemetry.shutdown()


async def _round(caller: DirectCaller, lengths: Sequence[int], candidates: int) -> dict[int, list[float]]:
    """Milliseconds of some requests at each length."""
    return {
        tokens: [await _asked_ms(caller, tokens, candidates, user) for user in range(REQUESTS)] for tokens in lengths
    }


async def _asked_ms(caller: DirectCaller, tokens: int, candidates: int, user: int) -> float:
    request = PlannedRequest(
        index=user,
        user=user,
        arrives_ns=0,
        retrieval_ns=0,
        pre_processing_ns=0,
        behaviours=tokens - 1,
        delta=0,
        candidates=candidates,
        visit=0,
        is_counted=True,
    )
    outcome = await caller.ask(request, no_wait)
    assert not outcome.error, outcome.error
    return outcome.call_ns / 1e6
