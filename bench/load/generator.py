"""Sends a trace, open loop: `python -m bench.load.generator SPEC.json`.

The spec names the trace, the target and where the outcomes go. Every request is sent when the
trace says so, whatever became of earlier ones; latency counts from the planned times, so that
neither a queue nor a slow generator hides. It is a process of its own, and collects no garbage
while it sends.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.load.callers import Caller, DirectCaller, RelayCaller, Target
from bench.load.clock import Clock
from bench.load.outcome import Outcome, write_outcomes
from bench.load.trace import read_trace
from bench.load.traffic import PlannedRequest
from relaygr.telemetry import Telemetry

SLACK_S = 20.0
"""How much longer than its trace a run may take before it is given up."""


class Generator:
    """Sends one trace."""

    def __init__(self, requests: Sequence[PlannedRequest], caller: Caller) -> None:
        self._requests = requests
        self._caller = caller

    async def run(self) -> list[Outcome]:
        """All outcomes, in order of arrival."""
        moments = sorted(
            moment
            for place, request in enumerate(self._requests)
            for moment in ((request.arrives_ns, place, 0), (request.due_ns, place, 1))
        )
        places = {(place, kind): number for number, (_, place, kind) in enumerate(moments)}
        loop = asyncio.get_running_loop()
        with Clock([moment[0] for moment in moments], loop) as clock:
            async with asyncio.timeout(moments[-1][0] / 1e9 + SLACK_S), asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._one(clock, request, places[place, 0], places[place, 1]))
                    for place, request in enumerate(self._requests)
                ]
        return [task.result() for task in tasks]

    async def _one(self, clock: Clock, request: PlannedRequest, arrival: int, due: int) -> Outcome:
        await clock.until(arrival)
        arrive_late_ns = clock.now_ns() - request.arrives_ns
        rank_late_ns = -1

        async def until_due() -> None:
            nonlocal rank_late_ns
            await clock.until(due)
            rank_late_ns = clock.now_ns() - request.due_ns

        outcome = await self._caller.ask(request, until_due)
        now_ns = clock.now_ns()
        return replace(
            outcome,
            arrive_late_ns=arrive_late_ns,
            rank_late_ns=rank_late_ns,
            rank_ns=now_ns - request.due_ns,
            end_to_end_ns=now_ns - request.arrives_ns,
        )


async def send(spec: dict[str, Any]) -> list[Outcome]:
    """Send what a spec says."""
    requests = read_trace(Path(spec["trace"]))
    target = Target(**spec["target"])
    telemetry = Telemetry.setup("relaygr-load", "load", spec["otlp"], b"relaygr-load-generator")
    caller: Caller = RelayCaller(target, telemetry) if spec["has_arrive"] else DirectCaller(target, telemetry)
    try:
        gc.freeze()
        gc.disable()
        return await Generator(requests, caller).run()
    finally:
        gc.enable()
        await caller.close()
        telemetry.shutdown()


def main(arguments: list[str]) -> None:
    """Send, then write the outcomes."""
    spec = json.loads(Path(arguments[0]).read_text())
    write_outcomes(Path(spec["outcomes"]), asyncio.run(send(spec)))


if __name__ == "__main__":
    main(sys.argv[1:])
