"""Ends and stops processes of a running cluster in turns, and brings them back."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from demo.cluster import Cluster

AWAY_S = 1.0
STOPPED_S = 3.0
READY_TIMEOUT_S = 40.0


class Harm(Enum):
    """What is done to a process."""

    KILL = "kill -9"
    STOP = "stopped"


@dataclass(frozen=True, slots=True)
class Blow:
    """One harm to one process."""

    harm: Harm
    name: str


BLOWS = (
    Blow(Harm.KILL, "ranker-1"),
    Blow(Harm.STOP, "ranker-2"),
    Blow(Harm.KILL, "expander"),
    Blow(Harm.STOP, "ranker-1"),
    Blow(Harm.KILL, "ranker-2"),
    Blow(Harm.STOP, "expander"),
)
"""In turns, so that every process lives for a few minutes between two ends."""


async def churn(cluster: Cluster, every_s: float, blows: Sequence[Blow], done: Counter[str]) -> None:
    """One blow after another until cancelled; each ends with a whole cluster.

    Args:
        cluster: whose processes.
        every_s: from one blow to the next.
        blows: in turns.
        done: counts them by harm and name.

    Raises:
        ProcessFailed: what was ended does not come back.
    """
    loop, number = asyncio.get_running_loop(), 0
    begun_s = loop.time()
    while True:
        number += 1
        await asyncio.sleep(max(0.0, begun_s + number * every_s - loop.time()))
        blow = blows[(number - 1) % len(blows)]
        done[f"{blow.name} {blow.harm.value}"] += 1
        # Not given up half-way when the load ends: what is down comes back.
        await _whole(asyncio.create_task(_strike(cluster, blow)))


async def _whole(strike: asyncio.Task[None]) -> None:
    try:
        await asyncio.shield(strike)
    except asyncio.CancelledError:
        await strike
        raise


async def _strike(cluster: Cluster, blow: Blow) -> None:
    supervisor = cluster.supervisor
    if blow.harm is Harm.STOP:
        supervisor.pause(blow.name)
        await asyncio.sleep(STOPPED_S)
        supervisor.resume(blow.name)
        return
    supervisor.kill(blow.name)
    await asyncio.sleep(AWAY_S)
    # Here and not in a thread: a process lives as long as the thread that started it.
    supervisor.restart(blow.name)
    await asyncio.to_thread(supervisor.wait_ready, blow.name, timeout_s=READY_TIMEOUT_S)
