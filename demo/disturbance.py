"""Kills one process in the middle of the replay and starts it again later."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from demo.cluster import Cluster

KILLED_AT = 1 / 3
RESTARTED_AT = 2 / 3
"""Shares of the replay's length."""
TARGETS = ("ranker", "expander", "etcd")
_READY_TIMEOUT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Killed:
    """What was done, in monotonic nanoseconds."""

    name: str
    killed_ns: int
    ready_ns: int
    """When the restarted process was up."""


async def disturb(cluster: Cluster, target: str, length_s: float, say: Callable[[str], None]) -> Killed:
    """SIGKILL a process after a third of the replay, start it again after two thirds.

    Args:
        cluster: whose process it is.
        target: of TARGETS; "ranker" is the first of them.
        length_s: of the replay.
        say: told what happens, a line at a time.
    """
    name = cluster.ranker_names[0] if target == "ranker" else target
    await asyncio.sleep(KILLED_AT * length_s)
    cluster.kill(name)
    killed_ns = time.monotonic_ns()
    say(f"killed {name} (SIGKILL)")
    await asyncio.sleep((RESTARTED_AT - KILLED_AT) * length_s)
    # Started here, since a process lives as long as the thread that started it; awaited elsewhere.
    cluster.supervisor.restart(name)
    await asyncio.to_thread(cluster.supervisor.wait_ready, name, timeout_s=_READY_TIMEOUT_S)
    say(f"{name} is up again")
    return Killed(name=name, killed_ns=killed_ns, ready_ns=time.monotonic_ns())
