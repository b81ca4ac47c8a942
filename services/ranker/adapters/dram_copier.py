"""The threads that copy between pages and blocks, for a caller on an event loop.

A reload of a few MiB takes less than a millisecond, of which the way to a thread and back is a good part: so work is
handed over at once, threads that come late are not waited for, and one wake-up tells the loop that all is done.

Source: design, section 3 (expander), invariant I5.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from relaygr.segment import Transfer
from services.ranker.adapters.dram_attachment import Attachment

COPY_THREADS = 2
"""Threads that work on one load: one core does not fill the bandwidth of a host's memory."""
STORE_THREADS = 2


def move(transfer: Transfer, should_stop: Callable[[], bool]) -> bool:
    """What a copying thread does."""
    return transfer.work(should_stop)


class Copier:
    """Threads for loads, and others for what nobody waits for: a slow store delays no load.

    Args:
        threads: that a load may take; a store takes one.
    """

    def __init__(self, threads: int = COPY_THREADS):
        self._threads = threads
        self._loads = ThreadPoolExecutor(threads, thread_name_prefix="dram-load")
        self.stores = ThreadPoolExecutor(STORE_THREADS, thread_name_prefix="dram-store")
        """For stores, and for the first touch of a mapping."""

    def close(self) -> None:
        """Begin nothing new; returns at once."""
        self._loads.shutdown(wait=False)
        self.stores.shutdown(wait=False)

    async def run(
        self, transfer: Transfer, attachment: Attachment, should_stop: Callable[[], bool] = lambda: False
    ) -> bool:
        """Move all of a transfer; no thread touches its pages once this has returned, or was cancelled.

        Returns:
            True when all bytes were moved and every block was the grant's before and after.
        """
        with attachment.copying():
            if not transfer.is_sound():
                return False
            job = _Job(transfer, lambda: attachment.is_ended or should_stop())
            if transfer.is_store:
                self.stores.submit(job.work)
            else:
                for _ in range(max(1, min(self._threads, transfer.part_count))):
                    self._loads.submit(job.work)
            return await job.end() and transfer.is_sound()


class _Job:
    """One transfer on its threads. Over once one of them found no more to do and all that had begun have ended."""

    def __init__(self, transfer: Transfer, should_stop: Callable[[], bool]):
        self._transfer, self._asked_to_stop = transfer, should_stop
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._lock = threading.Lock()
        self._working = 0
        self._is_closing = self._is_over = self._is_cancelled = False
        self._is_done = True
        self._error: BaseException | None = None

    def work(self) -> None:
        """In a copying thread; one that comes late returns at once."""
        with self._lock:
            if self._is_closing:
                return
            self._working += 1
        is_done, error = False, None
        try:
            is_done = move(self._transfer, self._should_stop)
        except BaseException as caught:  # raised where the transfer is waited for
            error = caught
        with self._lock:
            self._working -= 1
            self._is_closing = True
            self._is_done = self._is_done and is_done
            self._error = self._error or error
            is_last = not self._working
        if is_last:
            self._loop.call_soon_threadsafe(self._finish)

    async def end(self) -> bool:
        """Whether all was moved; told to stop and waited for all the same when the caller is cancelled."""
        cancelled: asyncio.CancelledError | None = None
        while not self._is_over:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            except asyncio.CancelledError as error:
                cancelled, self._is_cancelled = error, True
        if cancelled is not None:
            raise cancelled
        if self._error is not None:
            raise self._error
        return self._is_done

    def _should_stop(self) -> bool:
        return self._is_cancelled or self._asked_to_stop()

    def _finish(self) -> None:
        self._is_over = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
