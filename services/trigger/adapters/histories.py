"""Lengths of users' logs, read off the event loop: a store may touch a disk or a network."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from relaygr.behaviours.store import BehaviourStore
from relaygr.domain.identity import UserKey
from relaygr.errors import InvalidRequest, Unreachable
from services.trigger.arrival import LogHead

THREADS = 2
STORE = "behaviour store"


class Histories:
    """The metadata side of a behaviour store; without one, only inline histories are served."""

    def __init__(self, store: BehaviourStore | None, timeout_s: float):
        self._store = store
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="histories")

    async def head(self, user: UserKey, as_of_s: int) -> LogHead:
        """How many behaviours the user has before `as_of_s`, zero meaning all.

        Raises:
            InvalidRequest: there is no store here.
            Unreachable: the store failed or took too long.
        """
        if self._store is None:
            raise InvalidRequest("history.inline", "required: this deployment has no behaviour store")
        loop = asyncio.get_running_loop()
        call = loop.run_in_executor(self._threads, self._store.head, user, as_of_s)
        try:
            head = await asyncio.wait_for(call, self._timeout_s)
        except TimeoutError as error:
            raise Unreachable(STORE, f"no answer in {self._timeout_s * 1e3:.0f} ms") from error
        except OSError as error:
            raise Unreachable(STORE, error) from error
        return LogHead(head.log_count, head.generation)

    def close(self) -> None:
        """Give the threads up; a stuck read is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)
