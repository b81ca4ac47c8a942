"""This process as one of the owners of its own segment: who copies for rankers of other hosts.

It attaches to the core, holds its byte of the lock file and maps the segment as any ranker
does, so that its pins and grants are bounded and end as theirs do. It attaches when the
first stream comes: an expander that serves its own host alone has no such owner.

All of its copying happens on the event loop, between two looks at the core. So when its
index has changed, nothing is still being written under the old one.

Source: design, section 3 (expander), invariant I7.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from relaygr.errors import Refused
from relaygr.runtime.logs import next_step
from relaygr.segment import MappedSegment, OwnedSegment, OwnerLock
from services.expander.core.tiering import Tiering

_log = logging.getLogger(__name__)

EPOCH = 1


class LocalOwner:
    """One owner index, renewed while the process lives. Belongs to one event loop.

    Args:
        tiering: the core.
        owned: the segment, to be mapped once more for its bytes.
        heartbeat_s: period of its heartbeat.
        clock: monotonic, nanoseconds.
    """

    def __init__(
        self,
        tiering: Tiering,
        owned: OwnedSegment,
        heartbeat_s: float,
        clock: Callable[[], int] = time.monotonic_ns,
    ):
        self._tiering = tiering
        self._owned = owned
        self._heartbeat_s = heartbeat_s
        self._clock = clock
        # No ranker is named so: the name is this boot's.
        self._name = f"transfer-{owned.boot_id}"
        self._index: int | None = None
        self._lock: OwnerLock | None = None
        self._mapped: MappedSegment | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def segment(self) -> MappedSegment:
        """The segment's bytes; after `attached`."""
        assert self._mapped is not None
        return self._mapped

    def attached(self) -> int:
        """The owner index to make calls under from now on.

        Raises:
            Refused: every owner index is taken.
        """
        self._renew()
        if self._index is None:
            raise Refused("every owner index is taken")
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._keep())
        return self._index

    def is_current(self, index: int) -> bool:
        """True while what was granted under this index may be read and written."""
        return self._index == index and self._tiering.is_attached(self._name, index, self._clock())

    async def close(self) -> None:
        """End; repeatable. Nothing is copied any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self._let_go()
        if self._mapped is not None:
            self._mapped.close()
            self._mapped = None

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_s)
            try:
                self._renew()
            except Exception:
                # A bug; but streams that are refused for ever because one heartbeat failed are the worse end.
                step = next_step("nothing now: it is tried again; report it with the traceback")
                _log.exception("attaching to the own segment failed", extra=step)

    def _renew(self) -> None:
        index = self._tiering.attach(self._name, EPOCH, self._clock())
        if index == self._index:
            return
        self._let_go()
        if index is None:
            return
        if self._mapped is None:
            geometry = self._owned.geometry
            self._mapped = MappedSegment.open(
                self._owned.path,
                boot_id=self._owned.boot_id,
                segment_bytes=geometry.total_bytes,
                block_bytes=geometry.block_bytes,
            )
        self._lock = OwnerLock(self._owned.locks.path, index)
        self._index = index

    def _let_go(self) -> None:
        self._index = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None
