"""Being attached to the host's expander: heartbeat, mapping, lock, and the way back.

The expander names a boot and an owner index. While both stay the same, a heartbeat renews
and nothing else happens. When either changes, everything granted before is void: copies
under way are told to stop and waited for, the old byte of the lock file is let go (which
is what frees the old ranges), and the new segment is mapped. When the expander does not
answer, the tier is off at once and asked for again with a growing pause; after a few
failures the mapping goes too, so that a dead expander's memory is not held for ever.

Source: design, section 3 (expander), invariant I7.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import grpc
from opentelemetry import trace

from relaygr.runtime.logs import next_step
from relaygr.segment import MappedSegment, OwnerLock, SegmentRejected
from relaygr.v1 import expander_pb2, expander_pb2_grpc

_T = TypeVar("_T")

_log = logging.getLogger(__name__)

HEARTBEAT_S_MIN, HEARTBEAT_S_MAX = 0.02, 5.0
BACK_OFF_S_MIN, BACK_OFF_S_MAX = 0.05, 1.0
FAILURES_MAX = 4
"""Heartbeats that may fail before the mapping is let go."""

# Heartbeats are not part of any request's trace and would drown the others.
_UNSAMPLED = trace.NonRecordingSpan(trace.SpanContext(1, 1, is_remote=False, trace_flags=trace.TraceFlags(0)))


class Attachment:
    """One boot of the expander and one owner index; ends once and does not come back."""

    def __init__(self, boot_id: str, owner_index: int, segment: MappedSegment, lock: OwnerLock):
        self.boot_id = boot_id
        self.owner_index = owner_index
        self.segment = segment
        self.is_ended = False
        self._lock = lock
        self._copies = 0
        self._no_copies = asyncio.Event()
        self._no_copies.set()

    def has_ended(self) -> bool:
        """`is_ended`, to be asked from a copying thread."""
        return self.is_ended

    def is_of(self, reply: expander_pb2.AttachResponse) -> bool:
        """True when a heartbeat's answer is about this attachment."""
        return (self.boot_id, self.owner_index) == (reply.boot_id, reply.owner_index)

    @contextlib.contextmanager
    def copying(self) -> Iterator[None]:
        """While a thread reads or writes the segment."""
        assert not self.is_ended
        self._copies += 1
        self._no_copies.clear()
        try:
            yield
        finally:
            self._copies -= 1
            if self._copies == 0:
                self._no_copies.set()

    async def end(self) -> None:
        """Stop copies, wait for them (each stops at its next piece), unmap, let the lock go."""
        self.is_ended = True
        await self._no_copies.wait()
        self.segment.close()
        self._lock.release()


class Attacher:
    """Keeps an attachment, or keeps trying."""

    def __init__(
        self,
        stub: expander_pb2_grpc.ExpanderServiceStub,
        owner: str,
        epoch: int,
        executor: ThreadPoolExecutor,
        timeout_s: float,
    ):
        self._stub = stub
        self._owner = owner
        self._epoch = epoch
        self._executor = executor
        self._on_attached: Callable[[bool], None] = lambda is_attached: None
        self._timeout_s = timeout_s
        self._held: Attachment | None = None
        self._is_usable = False
        self._failures = 0
        self._nudged = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def current(self) -> Attachment | None:
        """The attachment, unless the tier is off."""
        return self._held if self._is_usable else None

    def start(self, on_attached: Callable[[bool], None]) -> None:
        """Begin; from within the event loop."""
        self._on_attached = on_attached
        self._spawn(self._keep())

    def suspend(self, attachment: Attachment | None = None) -> None:
        """The expander did not answer, or answered that we are stale: off until it is asked again, now.

        Args:
            attachment: under which the call was made; a late answer to a former one says
                nothing about the present one.
        """
        if attachment is None or attachment is self._held:
            self._set_usable(False)
            self._nudged.set()

    async def close(self) -> None:
        """End; waits for copies."""
        self._set_usable(False)
        if self._held is not None:
            self._held.is_ended = True  # stops the touching task too
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._drop()

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
            reply = await self._ask()
            if self._held is not None and not self._held.is_of(reply):
                self._set_usable(False)
                await self._drop()
                # Ending copies may have taken a while, and the index just given may have lapsed.
                reply = await self._ask()
            self._adopt(reply)
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, SegmentRejected, OSError) as error:
            return await self._failed(error)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return await self._failed(ConnectionError("the channel was closed"))
        except Exception as error:
            # A bug; but a tier that is off for ever because its heart stopped is the worse end.
            step = next_step("nothing now: it is tried again; report it with the traceback")
            _log.exception("heartbeat failed", extra=step)
            return await self._failed(error)
        self._failures = 0
        return min(max(reply.heartbeat_ns / 1e9, HEARTBEAT_S_MIN), HEARTBEAT_S_MAX)

    async def _failed(self, error: Exception) -> float:
        if self._failures == 0:
            text = error.code().name if isinstance(error, grpc.aio.AioRpcError) else str(error)
            step = next_step("see that the expander of this host runs; until it answers, psi stays on the device")
            _log.warning("DRAM tier is off: %s", text, extra=step)
        self._set_usable(False)
        self._failures += 1
        if self._failures >= FAILURES_MAX:
            await self._drop()
        back_off_s = min(BACK_OFF_S_MIN * 2 ** min(self._failures, 10), BACK_OFF_S_MAX)
        return back_off_s * random.uniform(0.5, 1.0)

    async def _ask(self) -> expander_pb2.AttachResponse:
        known = self._held.boot_id if self._held is not None else ""
        request = expander_pb2.AttachRequest(owner=self._owner, owner_epoch=self._epoch, known_boot_id=known)
        with trace.use_span(_UNSAMPLED):
            return await self._stub.Attach(request, timeout=self._timeout_s)

    def _adopt(self, reply: expander_pb2.AttachResponse) -> None:
        if self._held is None:
            # The lock first: from here on the expander can tell whether we may still write.
            lock = OwnerLock(Path(reply.lock_path), reply.owner_index)
            try:
                segment = MappedSegment.open(
                    Path(reply.segment_path),
                    boot_id=reply.boot_id,
                    segment_bytes=reply.segment_bytes,
                    block_bytes=reply.block_bytes,
                )
            except BaseException:
                lock.release()
                raise
            self._held = Attachment(reply.boot_id, reply.owner_index, segment, lock)
            self._spawn(self._touch(self._held))
        self._set_usable(True)

    async def _touch(self, attachment: Attachment) -> None:
        if attachment.is_ended:
            return
        with attachment.copying():
            loop = asyncio.get_running_loop()
            work = loop.run_in_executor(self._executor, attachment.segment.touch, attachment.has_ended)
            await to_the_end(work, lambda: None)

    async def _drop(self) -> None:
        if self._held is not None:
            # Held until it has ended, so that a drop that was cancelled half-way is finished by `close`.
            await self._held.end()
            self._held = None

    def _set_usable(self, usable: bool) -> None:
        if usable != self._is_usable:
            self._is_usable = usable
            self._on_attached(usable)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def to_the_end(future: asyncio.Future[_T], stop: Callable[[], None]) -> _T:
    """Wait for work that uses the caller's memory, also when the caller is cancelled meanwhile.

    A copy in a thread cannot be cancelled: it is told to stop, and the cancellation goes on
    once it has.
    """
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait({future})
        except asyncio.CancelledError as error:
            cancelled = error
            stop()
    if cancelled is not None:
        future.exception()  # taken, so that nobody complains that it was not
        raise cancelled
    return future.result()
