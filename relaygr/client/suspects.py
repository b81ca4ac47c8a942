"""Whether a trigger or router that lets calls wait is still there; one that says nothing is left for the next.

A killed process fails its calls at once. A stopped one, or one behind a network that drops all, lets them wait until
their deadline, and so would every later call. As a router does with rankers: at half of a rank's time the health of
the router is checked; unless it answers by 60 %, the rest of the time is the next router's. Only a health check that
fails by its own timeout moves later calls on, so that a caller's short deadline cannot.

Source: design, section 3 (client library), invariant I6.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from relaygr.rpc.channel import ChannelPool
from relaygr.rpc.peers import Peers

CHECK_AT, LEAVE_AT = 0.5, 0.6
"""Shares of the time of a rank: when a silent router is checked, and when it is left."""
CHECK_TIMEOUT_S = 0.3
"""Who says nothing for so long is lost."""


class Suspects:
    """Health checks under way, one for each address; belongs to one event loop."""

    def __init__(self, is_alive: Callable[[str, float], Awaitable[bool]]) -> None:
        self._is_alive = is_alive
        self._checks: dict[str, asyncio.Task[bool]] = {}

    def look(self, peers: Peers, address: str) -> asyncio.Task[bool]:
        """Check it; the task says whether it answers. No answer moves later calls on."""
        check = self._checks.get(address)
        if check is None:
            check = self._checks[address] = asyncio.create_task(self._look(peers, address), name=f"check {address}")
            check.add_done_callback(lambda _: self._checks.pop(address, None))
        return check

    async def is_silent(self, peers: Peers, address: str, wait_s: float) -> bool:
        """True when nothing is heard of it for so long."""
        check = self.look(peers, address)
        await asyncio.wait({check}, timeout=wait_s)
        return not (check.done() and not check.cancelled() and check.result())

    async def close(self) -> None:
        """End all checks."""
        checks = list(self._checks.values())
        for check in checks:
            check.cancel()
        await asyncio.gather(*checks, return_exceptions=True)

    async def _look(self, peers: Peers, address: str) -> bool:
        is_alive = await self._is_alive(address, CHECK_TIMEOUT_S)
        if not is_alive:
            peers.lost(address)
        return is_alive


async def is_alive(pool: ChannelPool, address: str, timeout_s: float) -> bool:
    """True when the standard health service says anything: who leaves still ends what it began."""
    try:
        await pool.stub(health_pb2_grpc.HealthStub, address).Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
    except grpc.aio.AioRpcError:
        return False
    return True
