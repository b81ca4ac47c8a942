"""Plays scenarios: load before, during and after a fault; then rest, a look for leaks, and a verdict.

To be called on the main thread, which starts the processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from bench.load.traffic import PlannedRequest
from bench.tiers.soak_samples import Sampler
from tests.chaos.faults import fault
from tests.chaos.ground import VERSIONS, Oracle
from tests.chaos.history import History
from tests.chaos.leaks import Rest, leaked, take
from tests.chaos.load import RecordingCaller, planned, sending
from tests.chaos.scenario import Kind, Pace, Scenario
from tests.chaos.stage import Stage
from tests.chaos.verdict import Verdict, judge

HARM_S_MAX = 90.0
"""Of load that is planned for the harm to be done and undone: processes come up slowly on a loaded machine."""


@dataclass(slots=True)
class Played:
    """One scenario and what came of it."""

    scenario: Scenario
    verdict: Verdict
    leaks: list[str] = field(default_factory=list)
    log_errors: dict[str, int] = field(default_factory=dict)
    """Lines of level error and tracebacks, by process."""
    fault_s: float = 0.0

    @property
    def broken(self) -> list[str]:
        """Rules that do not hold."""
        return [*self.verdict.broken, *(f"left behind: {text}" for text in self.leaks)]


class Player:
    """Plays on one stage."""

    def __init__(self, stage: Stage, pace: Pace, oracle: Oracle, seed: int) -> None:
        self._stage = stage
        self._pace = pace
        self._oracle = oracle
        self._seed = seed

    async def warm(self) -> None:
        """Some load, so that what a process takes once is no growth."""
        requests = planned(self._pace, self._pace.warm_s, self._seed)
        async with self._caller(History()) as caller:
            async with sending(requests, caller):
                await asyncio.sleep(self._pace.warm_s)
        await self._rested(Sampler(self._stage.cluster))

    async def play(self, scenario: Scenario) -> Played:
        """One scenario, from a whole cluster to a whole cluster."""
        pace, history, sampler = self._pace, History(), Sampler(self._stage.cluster)
        before = await asyncio.to_thread(take, self._stage, sampler)
        logged = self._log_errors()
        # Other users in each scenario, so that none finds what the one before has left in DRAM.
        seed = self._seed + zlib.crc32(scenario.name.encode())
        requests = planned(pace, pace.before_s + scenario.lasts_s + pace.after_s + HARM_S_MAX, seed)
        async with self._caller(history) as caller:
            await self._loaded(scenario, requests, caller, history)
        history.write(self._stage.run_dir / f"{scenario.name}.jsonl")
        judging = asyncio.create_task(asyncio.to_thread(self._judged, scenario, requests, history))
        after = await self._rested(sampler)
        return Played(
            scenario,
            await judging,
            leaked(before, after, sampler.must_be_zero, self._stage.cluster.supervisor.ended()),
            {name: count - logged.get(name, 0) for name, count in self._log_errors().items()},
            ((history.end_ns or history.stop_ns) - history.fault_ns) / 1e9,
        )

    async def _loaded(
        self, scenario: Scenario, requests: Sequence[PlannedRequest], caller: RecordingCaller, history: History
    ) -> None:
        """The fault, with load before, during and after it."""
        pace = self._pace
        async with contextlib.AsyncExitStack() as whole:
            async with sending(requests, caller):
                await asyncio.sleep(pace.before_s)
                history.fault_ns = time.monotonic_ns()
                await whole.enter_async_context(fault(self._stage, scenario))
                if scenario.kind is not Kind.ROLL:
                    await asyncio.sleep(scenario.lasts_s)
                if not scenario.stays_away:
                    await whole.aclose()
                    history.end_ns = time.monotonic_ns()
                await asyncio.sleep(pace.after_s)

    @asynccontextmanager
    async def _caller(self, history: History) -> AsyncIterator[RecordingCaller]:
        caller = RecordingCaller(self._stage.trigger, self._stage.routers, self._pace, history)
        try:
            yield caller
        finally:
            await caller.close()

    def _judged(
        self,
        scenario: Scenario,
        requests: Sequence[PlannedRequest],
        history: History,
    ) -> Verdict:
        versions = VERSIONS if scenario.kind is Kind.UPGRADE else VERSIONS[:1]
        return judge(scenario, self._pace, requests, history, self._oracle.of, versions)

    async def _rested(self, sampler: Sampler) -> Rest:
        """Wait until nothing is held any more, or for as long as is waited; what is seen then."""
        begun_s = time.monotonic()
        while True:
            rest = await asyncio.to_thread(take, self._stage, sampler)
            waited_s = time.monotonic() - begun_s
            is_quiet = not any(rest.held.values()) and not rest.silent
            if waited_s > (self._pace.settle_least_s if is_quiet else self._pace.settle_most_s):
                return rest
            await asyncio.sleep(0.25)

    def _log_errors(self) -> dict[str, int]:
        supervisor = self._stage.cluster.supervisor
        found = {}
        for name in supervisor.names():
            lines = supervisor.log_path(name).read_text(errors="replace").splitlines()
            found[name] = sum(" level=error " in line or line.startswith("Traceback") for line in lines)
        return found


async def play_all(player: Player, scenarios: Sequence[Scenario], say: Callable[[str], None]) -> list[Played]:
    """All scenarios of one stage, in order."""
    played = []
    await player.warm()
    for scenario in scenarios:
        say(f"{scenario.name}: {scenario.kind.value}, on {' and '.join(scenario.on)}")
        one = await player.play(scenario)
        for text in one.broken:
            say(f"{scenario.name}: BROKEN: {text}")
        played.append(one)
    return played
