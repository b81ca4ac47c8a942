"""Lengths of users' logs, read off the event loop: a store may touch a disk or a network."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from relaygr.behaviours.store import BehaviourStore, StoreHead
from relaygr.domain.identity import UserKey
from relaygr.errors import InvalidRequest, Unreachable
from services.trigger.arrival import LogHead

THREADS = 2
PENDING_MAX = 256
"""Reads begun or waiting for a thread: a store that hangs must not collect more."""
STORE = "behaviour store"


class Histories:
    """The metadata side of a behaviour store; without one, only inline histories are served."""

    def __init__(self, store: BehaviourStore | None, timeout_s: float):
        self._store = store
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="histories")
        self._pending = 0

    @property
    def pending(self) -> int:
        """Reads begun or waiting, also those that nobody waits for any more."""
        return self._pending

    async def head(self, user: UserKey, as_of_s: int) -> LogHead:
        """How many behaviours the user has before `as_of_s`, zero meaning all.

        Raises:
            InvalidRequest: there is no store here.
            Unreachable: the store failed or took too long.
        """
        if self._store is None:
            raise InvalidRequest("history.inline", "required: this deployment has no behaviour store")
        if self._pending >= PENDING_MAX:
            raise Unreachable(STORE, f"{PENDING_MAX} reads are unanswered")
        call = asyncio.get_running_loop().run_in_executor(self._threads, self._store.head, user, as_of_s)
        self._pending += 1
        call.add_done_callback(self._ended)
        # Not cancelled when it is late: the thread pool would keep its place in the queue all the same.
        await asyncio.wait({call}, timeout=self._timeout_s)
        if not call.done():
            raise Unreachable(STORE, f"no answer in {self._timeout_s * 1e3:.0f} ms")
        try:
            head = call.result()
        except OSError as error:
            raise Unreachable(STORE, error) from error
        return LogHead(head.log_count, head.generation)

    def close(self) -> None:
        """Give the threads up; a stuck read is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _ended(self, call: asyncio.Future[StoreHead]) -> None:
        self._pending -= 1
        if not call.cancelled():
            call.exception()  # Nobody may be left to ask.
