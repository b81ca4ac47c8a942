"""Whether the expander of another host can be reached, and what a reload from there takes.

It is asked who it is (its boot) each heartbeat. When it answers for the first time, or as
another boot, a reload from there is timed, and only then is the tier on: what was stored
with another boot is gone, and the tier goes off and on again for that. When it does not
answer, the tier is off at once, and asked for with a growing pause.

Source: design, section 3 (expander).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import grpc
from opentelemetry import trace

from relaygr.runtime.logs import next_step
from relaygr.v1 import expander_pb2, expander_pb2_grpc, transfer_pb2, transfer_pb2_grpc

_log = logging.getLogger(__name__)

HEARTBEAT_S = 0.5
BACK_OFF_S_MIN, BACK_OFF_S_MAX = 0.05, 1.0
PROBES = 5
PROBE_SHORT_BYTES, PROBE_LONG_BYTES = 1024, 1024 * 1024
ROUND_TRIPS = 3
"""Of a fetch: find, take, finish. A short probe is one of them and the opening of a stream."""

# Heartbeats are not part of any request's trace and would drown the others.
_UNSAMPLED = trace.NonRecordingSpan(trace.SpanContext(1, 1, is_remote=False, trace_flags=trace.TraceFlags(0)))


@dataclass(frozen=True, slots=True)
class RemoteCost:
    """What bytes take from there to here."""

    fixed_ns: float
    """Of a fetch, however short."""
    byte_ns: float
    """Of each byte beyond."""


class Reach:
    """Keeps asking. Belongs to one event loop.

    Args:
        describe: the expander's own service.
        transfer: its streams.
        timeout_s: of a heartbeat and of a probe.
        on_measured: told what a reload takes, before the tier is on.
    """

    def __init__(
        self,
        describe: expander_pb2_grpc.ExpanderServiceStub,
        transfer: transfer_pb2_grpc.TransferServiceStub,
        timeout_s: float,
        on_measured: Callable[[RemoteCost], None],
    ):
        self._expander = describe
        self._transfer = transfer
        self._timeout_s = timeout_s
        self._on_measured = on_measured
        self._on_attached: Callable[[bool], None] = lambda is_attached: None
        self._boot_id = ""
        self._failures = 0
        self._nudged = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.is_reached = False
        """Whether it answered lately."""

    def start(self, on_attached: Callable[[bool], None]) -> None:
        """Begin; from within the event loop."""
        self._on_attached = on_attached
        self._task = asyncio.get_running_loop().create_task(self._keep())

    def suspend(self) -> None:
        """It did not answer somebody: off until it is asked again, now."""
        self._set_reached(False)
        self._nudged.set()

    async def close(self) -> None:
        """End; repeatable."""
        self._set_reached(False)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _keep(self) -> None:
        while True:
            pause_s = await self._beat()
            self._nudged.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._nudged.wait(), pause_s)
            if self._failures:
                # A nudge does not shorten the pause of an expander that is not there.
                await asyncio.sleep(BACK_OFF_S_MIN)

    async def _beat(self) -> float:
        """One heartbeat; seconds until the next."""
        try:
            with trace.use_span(_UNSAMPLED):
                request = expander_pb2.ExpanderServiceDescribeRequest()
                reply = await self._expander.Describe(request, timeout=self._timeout_s)
            if not self.is_reached or reply.boot_id != self._boot_id:
                self._set_reached(False)
                self._on_measured(await measured(self._transfer, self._timeout_s))
                self._boot_id = reply.boot_id
                self._set_reached(True)
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, TimeoutError) as error:
            return self._failed(error)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return self._failed(ConnectionError("the channel was closed"))
        except Exception as error:
            # A bug; but a tier that is off for ever because its heart stopped is the worse end.
            step = next_step("nothing now: it is tried again; report it with the traceback")
            _log.exception("heartbeat failed", extra=step)
            return self._failed(error)
        self._failures = 0
        return HEARTBEAT_S

    def _failed(self, error: Exception) -> float:
        if self._failures == 0:
            text = error.code().name if isinstance(error, grpc.aio.AioRpcError) else str(error) or "timeout"
            step = next_step("see that the expander answers from this host; until then, psi stays on the device")
            _log.warning("remote DRAM tier is off: %s", text, extra=step)
        self._set_reached(False)
        self._failures += 1
        back_off_s = min(BACK_OFF_S_MIN * 2 ** min(self._failures, 10), BACK_OFF_S_MAX)
        return back_off_s * random.uniform(0.5, 1.0)

    def _set_reached(self, is_reached: bool) -> None:
        if is_reached != self.is_reached:
            self.is_reached = is_reached
            self._on_attached(is_reached)


async def measured(transfer: transfer_pb2_grpc.TransferServiceStub, timeout_s: float) -> RemoteCost:
    """Time short and long transfers in turns; the medians count.

    Raises:
        grpc.aio.AioRpcError: it did not answer.
        TimeoutError: it answered with fewer bytes.
    """
    short_s, long_s = [], []
    for _ in range(PROBES):
        short_s.append(await _timed(transfer, PROBE_SHORT_BYTES, timeout_s))
        long_s.append(await _timed(transfer, PROBE_LONG_BYTES, timeout_s))
    fixed_s, whole_s = statistics.median(short_s), statistics.median(long_s)
    byte_s = max(0.0, whole_s - fixed_s) / (PROBE_LONG_BYTES - PROBE_SHORT_BYTES)
    return RemoteCost(fixed_ns=ROUND_TRIPS * fixed_s * 1e9, byte_ns=byte_s * 1e9)


async def _timed(transfer: transfer_pb2_grpc.TransferServiceStub, length_bytes: int, timeout_s: float) -> float:
    begun_s, came = time.perf_counter(), 0
    call = transfer.Probe(transfer_pb2.ProbeRequest(length_bytes=length_bytes), timeout=timeout_s)
    async for piece in call:
        came += len(piece.data)
    if came != length_bytes:
        raise TimeoutError("a probe ended early")
    return time.perf_counter() - begun_s
