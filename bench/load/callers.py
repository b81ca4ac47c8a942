"""The two ways of asking: through the relay, with the client library; and for a ranking alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bench.load.ground import ITEMS, as_of_s
from bench.load.outcome import Outcome
from bench.load.traffic import PlannedRequest
from relaygr.behaviours.columns import Candidates
from relaygr.client import RelayClient
from relaygr.client.calls import Calls
from relaygr.client.ranking import Ranking, ranking_of
from relaygr.errors import RelayError
from relaygr.telemetry import Telemetry
from relaygr.v1.common_pb2 import Cut, History
from relaygr.v1.ranker_pb2 import RankRequest

Wait = Callable[[], Awaitable[None]]
ARRIVE_TIMEOUT_MS = 100.0


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where requests go and what they say."""

    trigger: str
    router: str
    generation: str
    """Of the behaviour store; a rank alone fixes its own cut with it."""
    rank_budget_ms: float
    rank_timeout_ms: float
    rank_latest_ms: float
    time_to_rank_ms: float


class Caller(Protocol):
    """Carries one request through, waiting where its stages would be; times are left to the generator."""

    async def ask(self, request: PlannedRequest, until_due: Wait) -> Outcome:
        """Everything known of the outcome but what the plan's times say."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


class RelayCaller:
    """Arrive, the stages, Rank with the ticket: what an integrator writes."""

    def __init__(self, target: Target, telemetry: Telemetry) -> None:
        self._target = target
        self._client = RelayClient(
            target.trigger,
            target.router,
            telemetry=telemetry,
            arrive_timeout_ms=ARRIVE_TIMEOUT_MS,
            rank_deadline_ms=target.rank_timeout_ms,
        )

    async def ask(self, request: PlannedRequest, until_due: Wait) -> Outcome:
        """One relayed request."""
        target, relay, begun_ns = self._target, None, time.monotonic_ns()
        try:
            relay = await self._client.arrive(
                user=request.user,
                as_of_s=as_of_s(request.behaviours),
                candidate_count=request.candidates,
                delta_count=request.delta,
                rank_budget_ms=target.rank_budget_ms,
                time_to_rank_ms=target.time_to_rank_ms,
                rank_latest_ms=target.rank_latest_ms,
            )
            arrive_ns = time.monotonic_ns() - begun_ns
            now_s = as_of_s(request.behaviours + request.delta)
            async with relay:
                await until_due()
                called_ns = time.monotonic_ns()
                ranking = await relay.rank(candidates_of(request), as_of_s=now_s, request_time_s=now_s)
        except RelayError as error:
            decision = relay.decision if relay else ""
            return Outcome(index=request.index, decision=decision, error=f"{type(error).__name__}: {error}")
        call_ns = time.monotonic_ns() - called_ns
        return ranked(request, ranking, call_ns, arrive_ns=arrive_ns, decision=relay.decision, reason=relay.reason)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


class DirectCaller:
    """Rank alone, without a ticket: production before the relay."""

    def __init__(self, target: Target, telemetry: Telemetry) -> None:
        self._target = target
        self._calls = Calls(target.trigger, target.router, telemetry)

    async def ask(self, request: PlannedRequest, until_due: Wait) -> Outcome:
        """One request whose only call is the ranking's."""
        target = self._target
        await until_due()
        called_ns = time.monotonic_ns()
        now_s = as_of_s(request.behaviours + request.delta)
        chosen = candidates_of(request)
        message = RankRequest(
            tenant="default",
            user=str(request.user),
            history=History(
                cut=Cut(behaviour_count=request.behaviours, store_generation=target.generation), as_of_s=now_s
            ),
            candidates=chosen.to_pb(),
            request_time_s=now_s,
        )
        try:
            response = await self._calls.rank(message, target.rank_timeout_ms / 1e3)
            ranking = ranking_of(chosen.item_ids, response, admitted=False, trace_id="")
        except RelayError as error:
            return Outcome(index=request.index, error=f"{type(error).__name__}: {error}")
        return ranked(request, ranking, time.monotonic_ns() - called_ns)

    async def close(self) -> None:
        """Close the connections."""
        await self._calls.close()


def ranked(
    request: PlannedRequest,
    ranking: Ranking,
    call_ns: int,
    *,
    arrive_ns: int = -1,
    decision: str = "",
    reason: str = "",
) -> Outcome:
    """The outcome of an answered request."""
    times_ns = {name.removeprefix("rank."): int(ms * 1e6) for name, ms in ranking.timings_ms.items()}
    return Outcome(
        index=request.index,
        decision=decision,
        reason=reason,
        tier=ranking.tier,
        fallback=ranking.fallback,
        branch=ranking.branch,
        instance_id=ranking.instance_id,
        arrive_ns=arrive_ns,
        call_ns=call_ns,
        psi_tokens=ranking.psi_tokens,
        inferred_tokens=ranking.inferred_tokens,
        queue_ns=times_ns["queue"],
        join_ns=times_ns["join"],
        prepare_ns=times_ns["prepare"],
        compute_ns=times_ns["compute"],
        total_ns=times_ns["total"],
    )


def candidates_of(request: PlannedRequest) -> Candidates:
    """Candidate items: the same for the same request, others for another."""
    first = (request.index * 2_654_435_761 + request.user) % ITEMS
    items: NDArray[np.int64] = (first + 7 * np.arange(request.candidates)) % ITEMS
    return Candidates.of(items)


async def no_wait() -> None:
    """For requests that are asked one after another."""
    await asyncio.sleep(0)
