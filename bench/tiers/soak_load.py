"""Open-loop traffic of every kind on a cluster, and what came of it.

Requests come when the plan says, whatever became of earlier ones. Most are relayed as an integrator does; the rest
are those that a serving system meets and a benchmark leaves out.

Source: design, section 5, invariants I5, I6.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from random import Random
from typing import Any

import numpy as np

from bench.load.ground import as_of_s
from bench.load.profile import Lengths, Profile
from bench.load.traffic import Plan, PlannedRequest, plan
from bench.tiers.soak_ground import BEHAVIOURS, ITEMS, USERS
from relaygr.behaviours.columns import Candidates
from relaygr.client import Ranking, RelayClient
from relaygr.client.calls import Calls
from relaygr.errors import RelayError
from relaygr.telemetry import Telemetry
from relaygr.v1.common_pb2 import Cut, History
from relaygr.v1.ranker_pb2 import RankRequest

KINDS = {
    "ordinary": 72,
    "released": 7,
    "never ranked": 6,
    "not announced": 6,
    "short deadline": 5,
    "no risk": 4,
}
"""By weight."""
JUDGED = ("ordinary", "not announced", "no risk")
"""Kinds that ought to be answered."""
AT_RISK_MS, NO_RISK_MS = 0.001, 10_000.0
WINDOW_MS = 500.0
RANK_TIMEOUT_MS = 2000.0
ARRIVE_TIMEOUT_MS = 200.0
SHORT_MS = 4.0
VERIFY_EVERY = 8
"""One ordinary request in so many is ranked once more in full, and the scores compared."""
SCORE_DIFFERENCE_MOST = 1e-5
FORGET_SHARE = 0.01
CANDIDATES = 64
LENGTHS = Lengths(median_tokens=300, spread=0.5, most_tokens=BEHAVIOURS - 200, least_tokens=40)
RETURN_GAP_S, RETURN_GAP_LEAST_S = 0.5, 0.15
"""Shorter than the profile's, so that arenas of a few psi still see some of their users again."""
PLAN_S = 60
"""Traffic is planned so far ahead, so that memory does not hold all of it."""


@dataclass(slots=True)
class SoakOutcome:
    """Sums; nothing is kept of a single request."""

    requests: int = 0
    judged: int = 0
    answered: int = 0
    """Of those that ought to be."""
    verified: int = 0
    wrong_scores: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    """By kind of request and class of error."""
    tiers: Counter[str] = field(default_factory=Counter)
    decisions: Counter[str] = field(default_factory=Counter)
    forgets: int = 0

    def to_json(self) -> dict[str, Any]:
        """For the line."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in values.items()}


class SoakLoad:
    """One client's traffic.

    Args:
        trigger: address.
        router: address.
        generation: of the behaviour store.
        profile: whose arrivals, stages and returns are taken.
        rate_hz: requests a second on average.
        seed: of all that chance has to say.
    """

    def __init__(
        self, *, trigger: str, router: str, generation: str, profile: Profile, rate_hz: float, seed: int
    ) -> None:
        self._addresses = trigger, router
        self._generation = generation
        traffic = replace(
            profile.traffic,
            warmup_s=0.0,
            candidates=CANDIDATES,
            requests=int(PLAN_S * rate_hz),
            return_gap_s=RETURN_GAP_S,
            return_gap_least_s=RETURN_GAP_LEAST_S,
        )
        self._plan = Plan(
            traffic=traffic,
            stages=profile.stages,
            rate_hz=rate_hz,
            seed=seed,
            first_user=0,
            users=USERS * traffic.requests,
            tokens=LENGTHS,
        )
        self._chance = Random(seed)
        self.outcome = SoakOutcome()

    async def run(self, seconds: float) -> SoakOutcome:
        """Send for so long, then wait for the last answers."""
        telemetry = Telemetry.setup("relaygr-load", "soak", None, b"relaygr-soak", sample_ratio=0.0)
        calls = Calls(*self._addresses, telemetry)
        try:
            async with RelayClient(
                *self._addresses,
                telemetry=telemetry,
                arrive_timeout_ms=ARRIVE_TIMEOUT_MS,
                rank_deadline_ms=RANK_TIMEOUT_MS,
            ) as client:
                await self._send(client, calls, time.monotonic() + seconds)
        finally:
            await calls.close()
            telemetry.shutdown()
        return self.outcome

    async def _send(self, client: RelayClient, calls: Calls, end_s: float) -> None:
        begun_s, number = time.monotonic(), 0
        async with asyncio.TaskGroup() as tasks:
            while begun_s < end_s:
                planned = await asyncio.to_thread(self._planned, number)
                for request in planned:
                    at_s = begun_s + request.arrives_ns / 1e9
                    if at_s >= end_s:
                        break
                    await asyncio.sleep(max(0.0, at_s - time.monotonic()))
                    tasks.create_task(self._one(client, calls, request))
                begun_s, number = begun_s + planned[-1].arrives_ns / 1e9, number + 1

    def _planned(self, number: int) -> Sequence[PlannedRequest]:
        shift = number * self._plan.traffic.requests
        return plan(replace(self._plan, seed=1000 * self._plan.seed + number, first_user=shift))

    async def _one(self, client: RelayClient, calls: Calls, request: PlannedRequest) -> None:
        kind = self._chance.choices(list(KINDS), list(KINDS.values()))[0]
        is_verified = kind == "ordinary" and self.outcome.requests % VERIFY_EVERY == 0
        self.outcome.requests += 1
        self.outcome.judged += kind in JUDGED
        try:
            if kind == "not announced":
                self._take(kind, await self._unannounced(calls, request))
            else:
                await self._relayed(client, request, kind, is_verified=is_verified)
            if self._chance.random() < FORGET_SHARE:
                kind = "forget"
                self.outcome.forgets += 1
                await client.forget(_user(request))
        except RelayError as error:
            self.outcome.errors[f"{kind}: {type(error).__name__}"] += 1

    async def _relayed(self, client: RelayClient, request: PlannedRequest, kind: str, *, is_verified: bool) -> None:
        relay = await client.arrive(
            user=_user(request),
            as_of_s=as_of_s(request.behaviours),
            candidate_count=CANDIDATES,
            delta_count=request.delta,
            rank_budget_ms=NO_RISK_MS if kind == "no risk" else AT_RISK_MS,
            rank_latest_ms=WINDOW_MS,
        )
        self.outcome.decisions[relay.decision] += 1
        await asyncio.sleep((request.due_ns - request.arrives_ns) / 1e9)
        if kind == "never ranked":
            return  # Nobody gives its ticket back: its window has to.
        async with relay:
            if kind == "released":
                return
            now_s = as_of_s(request.behaviours + request.delta)
            ranking = await relay.rank(
                _items(request),
                as_of_s=now_s,
                request_time_s=now_s,
                deadline_ms=SHORT_MS if kind == "short deadline" else None,
                verify=is_verified,
            )
        self._take(kind, ranking.tier)
        self._judge(ranking)

    async def _unannounced(self, calls: Calls, request: PlannedRequest) -> str:
        now_s = as_of_s(request.behaviours + request.delta)
        cut = Cut(behaviour_count=request.behaviours, store_generation=self._generation)
        message = RankRequest(
            tenant="default",
            user=str(_user(request)),
            history=History(cut=cut, as_of_s=now_s),
            candidates=Candidates.of(_items(request)).to_pb(),
            request_time_s=now_s,
        )
        await calls.rank(message, RANK_TIMEOUT_MS / 1e3)
        return "UNANNOUNCED"

    def _take(self, kind: str, tier: str) -> None:
        self.outcome.answered += kind in JUDGED
        self.outcome.tiers[tier] += 1

    def _judge(self, ranking: Ranking) -> None:
        if ranking.score_difference is not None:
            self.outcome.verified += 1
            self.outcome.wrong_scores += not ranking.score_difference <= SCORE_DIFFERENCE_MOST


def _user(request: PlannedRequest) -> int:
    return request.user % USERS


def _items(request: PlannedRequest) -> np.ndarray:
    return 1 + (request.index * 37 + 7 * np.arange(CANDIDATES)) % ITEMS
