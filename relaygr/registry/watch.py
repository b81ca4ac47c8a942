"""A prefix of etcd, followed for ever: list at a revision, then watch from the next.

Theory of operation. One task lists, opens a stream from `revision + 1` and hands events
on in order. A broken stream is opened again from the last event's own revision plus one
(not from the response header's: while a watch catches up, the header can be ahead of
the events delivered), so no event is lost or repeated. Three things force a new listing:
the revisions needed were compacted; etcd answers with another cluster or an older
revision than was seen, which is a server that lost its data; or a check counted other
keys than are known. Now and then a listing is made anyway.

Whether what is known is current is a question of its own: every `check_s` a small read
that needs the quorum confirms it, and `age_ns` grows while that fails.

Source: design, section 6, invariant I8.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from typing import Any

import grpc

from relaygr.errors import RelayError, Unreachable
from relaygr.registry.changes import Change, Deleted, Listed, Put
from relaygr.registry.tasks import end_task
from relaygr.registry.transport import EtcdTransport, etcd3, etcdrpc

_log = logging.getLogger(__name__)

BACKOFF_FIRST_S = 0.05
BACKOFF_MAX_S = 0.5
MISCOUNT_S = 2.0
"""Events of a stream that catches up may be on their way for so long."""
_DELETE_EVENT = 1


def key_text(key: bytes) -> str:
    """A key as text. Anybody may write one that is no text: it stays one key of many, and hides none of the others."""
    return key.decode(errors="backslashreplace")


class _GapError(Exception):
    """Only a new listing can tell what happened."""


class Watch:
    """Follows one prefix until closed; made by `Registry.watch_prefix`.

    Args:
        transport: calls to etcd.
        prefix: keys to follow.
        on_change: called on the event loop, in order; must not block.
        check_s: how often what is known is confirmed.
        reconcile_s: how often everything is listed anyway.
    """

    def __init__(
        self,
        transport: EtcdTransport,
        prefix: str,
        on_change: Callable[[Change], None],
        *,
        check_s: float = 1.0,
        reconcile_s: float = 30.0,
    ) -> None:
        self._transport = transport
        self._prefix = prefix
        self._on_change = on_change
        self._check_s = check_s
        self._reconcile_s = reconcile_s
        self._known: dict[str, bytes] = {}
        self._revision: int | None = None
        self._cluster_id = 0
        self._miscounted_s: float | None = None
        self._confirmed_ns = time.monotonic_ns()
        self._listed_s = 0.0
        self._listed = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"watch {prefix}")

    @property
    def is_listed(self) -> bool:
        """True once the first listing was delivered."""
        return self._listed.is_set()

    async def listed(self, timeout_s: float) -> bool:
        """Wait for the first listing; False when it did not come in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._listed.wait()
        return self.is_listed

    def age_ns(self, now_ns: int) -> int:
        """Time since what is known was last confirmed to be current (or since the start)."""
        return max(0, now_ns - self._confirmed_ns)

    def close(self) -> None:
        """Stop; nothing is delivered afterwards."""
        self._task.cancel()

    async def closed(self) -> None:
        """Stop and wait for the end."""
        await end_task(self._task)

    async def _run(self) -> None:
        backoff_s = BACKOFF_FIRST_S
        while True:
            seen = self._confirmed_ns
            try:
                if self._revision is None:
                    await self._list()
                await self._follow()
            except _GapError as gap:
                _log.info("listing %s again: %s", self._prefix, gap)
                self._revision = None
            except (RelayError, grpc.aio.AioRpcError) as error:
                _log.debug("watch of %s broke off: %s", self._prefix, error)
            except asyncio.CancelledError:
                raise
            except Exception:
                _log.exception("watch of %s failed; starting over", self._prefix)
                self._revision = None
            # The back-off starts over as soon as something was heard.
            backoff_s = BACKOFF_FIRST_S if self._confirmed_ns != seen else min(BACKOFF_MAX_S, backoff_s * 2)
            await asyncio.sleep(backoff_s * random.uniform(0.5, 1.0))

    async def _list(self) -> None:
        """Read the whole prefix and tell when it differs from what was known."""
        answer = await self._range(count_only=False)
        values = {key_text(kv.key): kv.value for kv in answer.kvs}
        values = dict(sorted(values.items()))
        self._cluster_id = answer.header.cluster_id
        self._revision = answer.header.revision
        self._miscounted_s = None
        self._listed_s = time.monotonic()
        if values != self._known or not self.is_listed:
            self._known = values
            self._tell(Listed(dict(values)))
        self._listed.set()

    async def _follow(self) -> None:
        """Read events until the stream breaks; returns never."""
        call = await self._transport.stream("Watch", "Watch")
        read: asyncio.Task[Any] | None = None
        try:
            async with asyncio.timeout(self._transport.timeout_s):
                await call.write(self._create())
            next_check_s = time.monotonic() + self._check_s
            while True:
                read = read or asyncio.create_task(call.read())
                await asyncio.wait({read}, timeout=max(0.0, next_check_s - time.monotonic()))
                if read.done():
                    answer, read = read.result(), None
                    self._take(answer)
                if time.monotonic() >= next_check_s:
                    await self._check()
                    next_check_s = time.monotonic() + self._check_s
        except grpc.aio.AioRpcError as error:
            raise self._transport.failed(error) from error
        except (TimeoutError, asyncio.InvalidStateError):
            raise Unreachable("etcd", "the watch could not be opened") from None
        finally:
            call.cancel()
            if read is not None:
                await end_task(read)

    def _create(self) -> Any:
        assert self._revision is not None
        key = self._prefix.encode()
        create = etcdrpc.WatchCreateRequest(
            key=key,
            range_end=etcd3.utils.increment_last_byte(key),
            start_revision=self._revision + 1,
            progress_notify=True,
        )
        return etcdrpc.WatchRequest(create_request=create)

    def _take(self, answer: Any) -> None:
        if answer is grpc.aio.EOF:
            raise Unreachable("etcd", "the watch ended")
        if answer.compact_revision:
            raise _GapError(f"revisions up to {answer.compact_revision} were compacted")
        if answer.canceled:
            raise _GapError(f"etcd cancelled the watch: {answer.cancel_reason}")
        self._confirmed_ns = time.monotonic_ns()
        assert self._revision is not None
        before = self._revision
        for raw in answer.events:
            event = _event(raw)
            if event.mod_revision <= before:
                continue  # A listing made meanwhile told it already.
            self._revision = event.mod_revision
            self._miscounted_s = None
            key = key_text(event.key)
            if isinstance(event, etcd3.events.DeleteEvent):
                self._known.pop(key, None)
                self._tell(Deleted(key))
            else:
                self._known[key] = event.value
                self._tell(Put(key, event.value))

    async def _check(self) -> None:
        """Confirm that what is known is current, or find out that it is not."""
        if time.monotonic() - self._listed_s >= self._reconcile_s:
            await self._list()
            return
        answer = await self._range(count_only=True)
        assert self._revision is not None
        if answer.header.cluster_id != self._cluster_id or answer.header.revision < self._revision:
            raise _GapError("this etcd has another history")
        if answer.count == len(self._known):
            self._miscounted_s = None
        elif self._miscounted_s is None:
            self._miscounted_s = time.monotonic()
        elif time.monotonic() - self._miscounted_s > MISCOUNT_S:
            raise _GapError(f"{answer.count} keys there, {len(self._known)} known")

    async def _range(self, *, count_only: bool) -> Any:
        key = self._prefix.encode()
        request = etcdrpc.RangeRequest(key=key, range_end=etcd3.utils.increment_last_byte(key), count_only=count_only)
        answer = await self._transport.call("KV", "Range", request)
        self._confirmed_ns = time.monotonic_ns()
        return answer

    def _tell(self, change: Change) -> None:
        try:
            self._on_change(change)
        except Exception:
            # The owner's mistake must not end the watch for the rest of its life.
            _log.exception("a change of %s could not be handled", self._prefix)


def _event(raw: Any) -> Any:
    """The library's event.

    Raises:
        _GapError: of a kind that it does not know.
    """
    try:
        return etcd3.events.new_event(raw)
    except KeyError:
        raise _GapError(f"an event of kind {raw.type}") from None
