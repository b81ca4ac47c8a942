"""Open-loop load with a memory: the benchmark's generator and traffic, and a caller that writes down what it saw."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
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

LAG_S = 0.02
"""Between two looks at how late the event loop is."""


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
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._telemetry = Telemetry.setup("relaygr-load", "chaos", None, b"relaygr-chaos", sample_ratio=0.0)
        self._client = RelayClient(
            trigger,
            router,
            telemetry=self._telemetry,
            arrive_timeout_ms=pace.arrive_timeout_ms,
            rank_deadline_ms=pace.rank_timeout_ms,
        )

    async def ask(self, request: PlannedRequest, until_due: Wait) -> Outcome:
        """One request, from its arrival to its end; nothing once the load has stopped."""
        if self._history.stop_ns:
            return Outcome(index=request.index)
        call = self._history.calls[request.index] = Call(request.index, time.monotonic_ns())
        self._under_way += 1
        self._idle.clear()
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
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()
        return Outcome(index=request.index, tier=call.tier, error=call.error)

    async def stop(self) -> None:
        """Send no more, and wait for the end of what was sent."""
        self._history.stop_ns = time.monotonic_ns()
        await self._idle.wait()

    async def note_lag(self) -> None:
        """Measure how long this event loop is held up, until cancelled."""
        while True:
            begun_ns = time.monotonic_ns()
            await asyncio.sleep(LAG_S)
            late_ns = time.monotonic_ns() - begun_ns - int(LAG_S * 1e9)
            self._history.lag_ns = max(self._history.lag_ns, late_ns)

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


@asynccontextmanager
async def sending(requests: Sequence[PlannedRequest], caller: RecordingCaller) -> AsyncIterator[None]:
    """While the block runs, send what is due, whatever becomes of earlier requests; then wait for their end."""
    tasks = [asyncio.create_task(Generator(requests, caller).run()), asyncio.create_task(caller.note_lag())]
    try:
        yield
        await caller.stop()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
