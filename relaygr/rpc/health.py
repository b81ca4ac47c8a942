"""The standard health servicer, whose watchers end with the server.

A Watch stream never ends by itself, so one watcher would make every stop wait for the
whole of its grace.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2


class HealthServicer(health.aio.HealthServicer):
    """grpc.health.v1 with a way to end its watchers."""

    def __init__(self) -> None:
        super().__init__()
        self._watching: set[asyncio.Task[Any]] = set()
        self._is_closed = False

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext) -> None:
        """Send each change until the caller goes or `close`."""
        watching = asyncio.ensure_future(super().Watch(request, context))
        self._watching.add(watching)
        try:
            await watching
        except asyncio.CancelledError:
            if not self._is_closed:
                watching.cancel()
                raise
        finally:
            self._watching.discard(watching)

    async def close(self, told_within_s: float) -> None:
        """NOT_SERVING for good; watchers get it and then the end of their stream."""
        await self.enter_graceful_shutdown()
        self._is_closed = True
        if self._watching:
            await asyncio.wait(self._watching, timeout=told_within_s)
        for watching in tuple(self._watching):
            watching.cancel()
