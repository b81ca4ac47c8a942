"""Open-loop load with a memory: the benchmark's generator and traffic, and a caller that writes down what it saw."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bench.load.callers import Wait
from bench.load.generator import Generator
from bench.load.ground import as_of_s
from bench.load.outcome import Outcome
from bench.load.profile import load_profile
from bench.load.traffic import Plan, PlannedRequest, plan
from bench.tiers.soak_ground import ITEMS, USERS
from bench.tiers.soak_load import AT_RISK_MS, CANDIDATES, LENGTHS, RETURN_GAP_LEAST_S, RETURN_GAP_S, WINDOW_MS
from relaygr.client import RelayClient
from relaygr.errors import RelayError
from relaygr.telemetry import Telemetry
from tests.chaos.history import Call, History
from tests.chaos.scenario import Pace

UNANSWERED_S = 3.0
"""A request that has not ended so long after its deadline is given up, and counts as unanswered."""


def planned(pace: Pace, seconds: float, seed: int) -> list[PlannedRequest]:
    """Poisson arrivals of so many seconds, with users who come back."""
    profile = load_profile("default")
    requests = int(1.5 * pace.rate_hz * seconds) + 20
    traffic = replace(
        profile.traffic,
        warmup_s=0.0,
        candidates=CANDIDATES,
        requests=requests,
        return_gap_s=RETURN_GAP_S,
        return_gap_least_s=RETURN_GAP_LEAST_S,
    )
    wanted = Plan(
        traffic=traffic,
        stages=profile.stages,
        rate_hz=pace.rate_hz,
        seed=seed,
        first_user=0,
        users=USERS * requests,
        tokens=LENGTHS,
    )
    return [request for request in plan(wanted) if request.arrives_ns < seconds * 1e9]


def user_of(request: PlannedRequest) -> int:
    """The user of the store who asks."""
    return request.user % USERS


def items_of(request: PlannedRequest) -> NDArray[np.int64]:
    """Candidates: the same for the same request, others for another."""
    return 1 + (request.index * 37 + 7 * np.arange(request.candidates)) % ITEMS


class RecordingCaller:
    """Carries requests through the client library and keeps a history of them.

    Args:
        trigger: address, or several.
        router: likewise.
        pace: whose patience.
        history: written to.
    """

    def __init__(self, trigger: str, router: str, pace: Pace, history: History) -> None:
        self._pace = pace
        self._history = history
        self._telemetry = Telemetry.setup("relaygr-load", "chaos", None, b"relaygr-chaos", sample_ratio=0.0)
        self._client = RelayClient(
            trigger,
            router,
            telemetry=self._telemetry,
            arrive_timeout_ms=pace.arrive_timeout_ms,
            rank_deadline_ms=pace.rank_timeout_ms,
        )

    async def ask(self, request: PlannedRequest, until_due: Wait) -> Outcome:
        """One request, from its arrival to its end."""
        call = self._history.calls[request.index] = Call(request.index, time.monotonic_ns())
        patience_s = (self._pace.arrive_timeout_ms + self._pace.rank_timeout_ms) / 1e3 + UNANSWERED_S
        try:
            async with asyncio.timeout((request.due_ns - request.arrives_ns) / 1e9 + patience_s):
                await self._relayed(request, until_due, call)
        except RelayError as error:
            call.ended_ns = time.monotonic_ns()
            call.error, call.detail = type(error).__name__, str(error)
        except TimeoutError:
            call.detail = "never ended"
        except Exception as error:
            # Neither an answer nor a status: the library let something else through.
            call.detail = f"{type(error).__name__}: {error}"
        return Outcome(index=request.index, tier=call.tier, error=call.error)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()
        self._telemetry.shutdown()

    async def _relayed(self, request: PlannedRequest, until_due: Wait, call: Call) -> None:
        relay = await self._client.arrive(
            user=user_of(request),
            as_of_s=as_of_s(request.behaviours),
            candidate_count=request.candidates,
            delta_count=request.delta,
            rank_budget_ms=AT_RISK_MS,
            rank_latest_ms=WINDOW_MS,
        )
        call.decision = relay.decision
        async with relay:
            await until_due()
            now_s = as_of_s(request.behaviours + request.delta)
            call.ranked_ns = time.monotonic_ns()
            ranking = await relay.rank(items_of(request), as_of_s=now_s, request_time_s=now_s)
        call.ended_ns = time.monotonic_ns()
        call.scores, call.tier, call.instance_id = ranking.scores, ranking.tier, ranking.instance_id


async def send(requests: Sequence[PlannedRequest], caller: RecordingCaller) -> dict[int, Outcome]:
    """Send them all when they are due, whatever becomes of earlier ones; outcomes by index."""
    return {outcome.index: outcome for outcome in await Generator(requests, caller).run()}
