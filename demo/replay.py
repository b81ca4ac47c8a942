"""Sends planned requests through the client library at their times, whatever the answers do.

The replay is open-loop: a request arrives when the plan says so, also when earlier ones are
still unanswered, and its ranking is due when its stages end, which stand for retrieval and
pre-processing and take their planned time. A ranking's latency counts from the moment it was
due, so work that this process sent late is not hidden.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tqdm import tqdm

from demo.outcome import Outcome
from demo.plan import PRE_PROCESSING_MEAN_S, RETRIEVAL_MEAN_S, PlannedRequest
from relaygr.client import Ranking, Relay, RelayClient
from relaygr.errors import RelayError
from relaygr.telemetry import Telemetry

ARRIVE_TIMEOUT_MS = 100.0
RANK_TIMEOUT_MS = 3000.0
RANK_LATEST_MS = 600.0
"""Lifecycle window: no planned request ranks later than 180 ms after its arrival."""
_SLACK_S = 30.0
"""How much longer than its plan a replay may take before it is given up."""


@dataclass(frozen=True, kw_only=True)
class ReplaySettings:
    """Where the requests go, and what they ask for."""

    trigger: str
    router: str
    rank_budget_ms: float
    verify_every: int
    """One request in so many is ranked once more in full, to compare the scores; 0: none."""


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """What came of a replay."""

    outcomes: list[Outcome]
    score_differences: list[float]
    """Of the verified requests that were ranked on psi."""


class Replay:
    """One replay."""

    def __init__(self, settings: ReplaySettings, telemetry: Telemetry) -> None:
        self._settings = settings
        self._telemetry = telemetry
        self._differences: list[float] = []

    async def run(self, planned: Sequence[PlannedRequest]) -> Replayed:
        """Send all requests, which are in order of arrival, and wait for their answers."""
        async with RelayClient(
            self._settings.trigger,
            self._settings.router,
            telemetry=self._telemetry,
            arrive_timeout_ms=ARRIVE_TIMEOUT_MS,
            rank_deadline_ms=RANK_TIMEOUT_MS,
        ) as client:
            limit_s = planned[-1].ranks_s + RANK_TIMEOUT_MS / 1e3 + _SLACK_S
            async with asyncio.timeout(limit_s):
                outcomes = await self._send(client, planned)
        return Replayed(outcomes=outcomes, score_differences=self._differences)

    async def _send(self, client: RelayClient, planned: Sequence[PlannedRequest]) -> list[Outcome]:
        start_ns = time.monotonic_ns()
        # A terminal gets a smooth bar, a log a line now and then.
        interval_s = 0.2 if sys.stderr.isatty() else 10.0
        with tqdm(total=len(planned), desc="replay", unit="request", mininterval=interval_s) as bar:
            async with asyncio.TaskGroup() as tasks:
                asked = []
                for request in planned:
                    await _until(start_ns, request.arrives_s)
                    one = tasks.create_task(self._one(client, request, start_ns))
                    one.add_done_callback(lambda _: bar.update())
                    asked.append(one)
        return [task.result() for task in asked]

    async def _one(self, client: RelayClient, request: PlannedRequest, start_ns: int) -> Outcome:
        relay = None
        try:
            relay = await self._arrive(client, request)
            async with relay:
                with relay.stage("retrieval"):
                    await _until(start_ns, request.arrives_s + request.retrieval_s)
                with relay.stage("pre-processing"):
                    await _until(start_ns, request.ranks_s)
                late_ns = time.monotonic_ns() - start_ns - int(request.ranks_s * 1e9)
                ranking = await self._rank(relay, request)
        except RelayError as error:
            return Outcome(
                planned=request,
                decision=relay.decision if relay else "",
                error=f"{type(error).__name__}: {error}",
                trace_id=relay.trace_id if relay else "",
            )
        return _outcome(request, relay, ranking, late_ns)

    async def _arrive(self, client: RelayClient, request: PlannedRequest) -> Relay:
        return await client.arrive(
            user=request.asked.user,
            as_of_s=request.arrive_as_of_s,
            candidate_count=len(request.asked.candidates),
            delta_count=request.delta_count,
            request_id=f"replay-{request.index}",
            rank_budget_ms=self._settings.rank_budget_ms,
            time_to_rank_ms=(RETRIEVAL_MEAN_S + PRE_PROCESSING_MEAN_S) * 1e3,
            rank_latest_ms=RANK_LATEST_MS,
        )

    async def _rank(self, relay: Relay, request: PlannedRequest) -> Ranking:
        every = self._settings.verify_every
        ranking = await relay.rank(
            request.asked.candidates,
            as_of_s=request.asked.time_s,
            request_time_s=request.asked.time_s,
            verify=bool(every) and request.index % every == 0,
        )
        if ranking.score_difference is not None and ranking.tier != "FULL":
            self._differences.append(ranking.score_difference)
        return ranking


def _outcome(request: PlannedRequest, relay: Relay, ranking: Ranking, late_ns: int) -> Outcome:
    foreseen = relay.arrived.predictions
    return Outcome(
        planned=request,
        decision=relay.decision,
        reason=relay.reason,
        tier=ranking.tier,
        fallback=ranking.fallback,
        instance_id=ranking.instance_id,
        branch=ranking.branch,
        scores=ranking.scores,
        rank_ns=late_ns + int(ranking.timings_ms["rank"] * 1e6),
        compute_ns=int(ranking.timings_ms["rank.compute"] * 1e6),
        foreseen_full_ns=foreseen.full_ns + foreseen.queue_ns,
        foreseen_on_psi_ns=foreseen.rank_on_psi_ns,
        trace_id=relay.trace_id,
    )


async def _until(start_ns: int, offset_s: float) -> None:
    """Wait until `offset_s` after the start; not at all when that has passed."""
    left_s = offset_s - (time.monotonic_ns() - start_ns) / 1e9
    if left_s > 0:
        await asyncio.sleep(left_s)
