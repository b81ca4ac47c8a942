"""A service's gRPC server: health, reflection, tracing, error translation, orderly stop."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from relaygr.rpc.deadline import DEFAULT_DEADLINE_NS
from relaygr.rpc.health import HealthServicer
from relaygr.rpc.lane_server import LaneServer
from relaygr.rpc.tls import CONNECTION_AGE_MAX_MS, server_credentials
from relaygr.rpc.traced_handlers import TracedHandlers
from relaygr.runtime.logs import next_step
from relaygr.security.guard import Guard
from relaygr.security.material import KeptMaterial
from relaygr.telemetry import Telemetry
from relaygr.v1 import lane_pb2_grpc

_log = logging.getLogger(__name__)

MESSAGE_BYTES_MAX = 8 * 1024 * 1024
CONCURRENT_RPCS_MAX = 4096
"""Beyond this gRPC refuses with RESOURCE_EXHAUSTED before any of our code runs."""
PING_INTERVAL_MIN_MS = 5_000
"""Our channels ping every 10 s; gRPC's own minimum of 5 min would cut them off."""
WATCHERS_TOLD_S = 0.05
"""Between telling health watchers NOT_SERVING and ending their streams."""


class RpcServer:
    """One listening server.

    Args:
        service_name: for logs.
        address: host:port; port 0 takes a free one.
        telemetry: spans and histograms of the calls.
        message_bytes_max: a larger request is refused with RESOURCE_EXHAUSTED.
        default_deadline_ns: for callers that set no deadline.
        concurrent_rpcs_max: calls in progress, health watches included; and as many again over lanes.
        lane_port: where lanes are taken, 0 takes a free one; None takes none.
        tls: with it every connection is TLS, callers must show a certificate of the same authority, and each may call
            what its role may (`relaygr.security.methods`); None: plain text, and anybody may call anything.
    """

    def __init__(
        self,
        *,
        service_name: str,
        address: str,
        telemetry: Telemetry,
        message_bytes_max: int = MESSAGE_BYTES_MAX,
        default_deadline_ns: int = DEFAULT_DEADLINE_NS,
        concurrent_rpcs_max: int = CONCURRENT_RPCS_MAX,
        lane_port: int | None = 0,
        tls: KeptMaterial | None = None,
    ) -> None:
        self._lane_port = lane_port
        self._tls = tls
        self._service_name = service_name
        self._address = address
        self._health = HealthServicer()
        self._served: list[str] = [health.SERVICE_NAME]
        self._ordered = asyncio.Lock()
        self._settings: set[asyncio.Task[None]] = set()
        self._server = grpc.aio.server(
            options=_options(message_bytes_max, is_tls=tls is not None),
            maximum_concurrent_rpcs=concurrent_rpcs_max,
        )
        self._lanes = LaneServer(concurrent_rpcs_max, message_bytes_max=message_bytes_max)
        self._lanes.counts.publish(telemetry)
        self._guard = Guard(tls.identity.deployment) if tls is not None else None
        self._traced = TracedHandlers(telemetry, default_deadline_ns, self._guard).on(self._server, self._lanes)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._traced)
        lane_pb2_grpc.add_LaneServiceServicer_to_server(self._lanes, self._traced)

    def add(self, add_fn: Callable[[Any, grpc.aio.Server], None], servicer: Any, full_service_name: str) -> None:
        """Serve a service; before `start`.

        Args:
            add_fn: the generated add_...Servicer_to_server.
            servicer: with one coroutine a method.
            full_service_name: for example "relaygr.v1.RouterService".
        """
        add_fn(servicer, self._traced)
        self._served.append(full_service_name)

    async def start(self, *, serving: bool = True) -> int:
        """Listen; returns the port.

        Raises:
            RuntimeError: the address cannot be bound.
            OSError: the lanes' port cannot be bound.
        """
        shown = reflection.aio.ReflectionServicer((*self._served, reflection.SERVICE_NAME))
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(shown, self._traced)
        await self.set_serving(serving)
        port = self._listen()
        if self._lane_port is not None:
            context = self._tls.listening_context() if self._tls is not None else None
            await self._lanes.start(self._address.rpartition(":")[0].strip("[]"), self._lane_port, context)
        await self._server.start()
        how = f"as {self._tls.identity.uri}" if self._tls is not None else "in plain text"
        _log.info("%s listens on port %d %s", self._service_name, port, how)
        return port

    def _listen(self) -> int:
        if self._tls is None:
            return int(self._server.add_insecure_port(self._address))
        return int(self._server.add_secure_port(self._address, server_credentials(self._tls)))

    def set_serving(self, serving: bool) -> asyncio.Task[None]:
        """Tell health checks, for the server and each service; may be awaited, need not be."""
        task = asyncio.get_running_loop().create_task(self._set_health(serving))
        self._settings.add(task)
        task.add_done_callback(self._settings.discard)
        return task

    async def stop(self, grace_s: float) -> None:
        """NOT_SERVING for good, no new calls, and up to `grace_s` for those in progress."""
        self._lanes.drain()
        await self._health.close(told_within_s=min(grace_s, WATCHERS_TOLD_S))
        await asyncio.gather(self._server.stop(grace_s), self._lanes.stop(grace_s))
        if self._settings:
            await asyncio.gather(*self._settings)

    async def _set_health(self, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse
        value = status.SERVING if serving else status.NOT_SERVING
        # The lock is first come, first served, so the last call wins.
        async with self._ordered:
            for name in ("", *self._served):
                await self._health.set(name, value)


async def serve_until_signal(
    server: RpcServer,
    on_stop: Callable[[], Awaitable[None]],
    *,
    on_stop_timeout_s: float = 10.0,
    grace_s: float = 5.0,
) -> None:
    """Wait for SIGTERM or SIGINT, then: NOT_SERVING, `on_stop`, stop.

    Args:
        server: started.
        on_stop: leaves the registry and drains; calls are still served meanwhile.
        on_stop_timeout_s: `on_stop` is cancelled after this.
        grace_s: for calls in progress. A second signal ends both waits.
    """
    loop = asyncio.get_running_loop()
    signals: asyncio.Queue[str] = asyncio.Queue(maxsize=16)

    def caught(name: str) -> None:
        if not signals.full():
            signals.put_nowait(name)

    wanted = (signal.SIGTERM, signal.SIGINT)
    for number in wanted:
        loop.add_signal_handler(number, caught, number.name)
    try:
        _log.info("stopping on %s", await signals.get())
        stopping = asyncio.create_task(_stop_in_order(server, on_stop, on_stop_timeout_s, grace_s))
        hurry = asyncio.create_task(signals.get())
        await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            step = next_step("nothing: a second signal asks for it; calls in progress are cut off")
            _log.warning("stopping at once on %s", hurry.result(), extra=step)
            stopping.cancel()
            await asyncio.wait({stopping})
            await server.stop(0)
        else:
            stopping.result()
        hurry.cancel()
        await asyncio.wait({hurry})
    finally:
        for number in wanted:
            loop.remove_signal_handler(number)


async def _stop_in_order(
    server: RpcServer, on_stop: Callable[[], Awaitable[None]], on_stop_timeout_s: float, grace_s: float
) -> None:
    await server.set_serving(False)
    try:
        async with asyncio.timeout(on_stop_timeout_s):
            await on_stop()
    except TimeoutError:
        step = next_step("see that etcd and the peers answer; the registration ends with its lease")
        _log.warning("gave up leaving in order after %.1f s", on_stop_timeout_s, extra=step)
    except Exception:
        step = next_step("nothing now: the registration ends with its lease; report it with the traceback")
        _log.exception("leaving in order failed", extra=step)
    await server.stop(grace_s)


def _options(message_bytes_max: int, *, is_tls: bool) -> list[tuple[str, int]]:
    return [
        *([("grpc.max_connection_age_ms", CONNECTION_AGE_MAX_MS)] if is_tls else ()),
        ("grpc.max_receive_message_length", message_bytes_max),
        ("grpc.max_send_message_length", message_bytes_max),
        # Two servers on one port would silently share it.
        ("grpc.so_reuseport", 0),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", PING_INTERVAL_MIN_MS),
    ]
