"""The blocking client: the same verbs, for callers without an event loop.

One thread runs the loop; any number of threads may use the client.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

from relaygr.client.client import Forgotten, RelayClient
from relaygr.client.ranking import Ranking
from relaygr.client.relay import Relay

Answer = TypeVar("Answer")

_JOIN_S = 5.0


class LoopThread:
    """An event loop on a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._is_closing = False
        self._thread = threading.Thread(target=self._loop.run_forever, name="relaygr-client", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        """Run on the loop and wait. Every call of the client has a timeout, so this ends."""
        with self._lock:  # What is handed over before the loop ends is ended with it: nobody waits for ever.
            if self._is_closing:
                work.close()
                raise RuntimeError("the client is closed")
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # an interrupted caller leaves nothing running
            raise

    def close(self) -> None:
        """Stop, ending what other threads still wait for; repeatable."""
        with self._lock:
            if self._is_closing:
                return
            self._is_closing = True
            asyncio.run_coroutine_threadsafe(self._end(), self._loop)
        self._thread.join(_JOIN_S)
        if not self._thread.is_alive():
            self._loop.close()

    async def _end(self) -> None:
        try:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            if others:
                await asyncio.wait(others, timeout=_JOIN_S / 2)
        finally:
            # Twice around the loop, so that the outcomes reach the threads that wait for them.
            self._loop.call_soon(self._loop.call_soon, self._loop.stop)


class SyncRelay:
    """`Relay`, blocking."""

    def __init__(self, thread: LoopThread, relay: Relay):
        self._thread = thread
        self.relay = relay
        """What it wraps: decision, reason, admitted, trace_id."""

    def rank(self, candidates: Any, **arguments: Any) -> Ranking:
        """See `Relay.rank`."""
        return self._thread.run(self.relay.rank(candidates, **arguments))

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """See `Relay.stage`."""
        with self.relay.stage(name):
            yield

    def release(self) -> None:
        """See `Relay.release`."""
        self._thread.run(self.relay.release())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


class SyncRelayClient:
    """`RelayClient`, blocking; takes the same arguments."""

    def __init__(self, trigger: str, router: str, **arguments: Any):
        self._thread = LoopThread()

        async def build() -> RelayClient:
            return RelayClient(trigger, router, **arguments)

        try:
            self._client = self._thread.run(build())
        except BaseException:
            self._thread.close()
            raise

    def arrive(self, **arguments: Any) -> SyncRelay:
        """See `RelayClient.arrive`."""
        return SyncRelay(self._thread, self._thread.run(self._client.arrive(**arguments)))

    def forget(self, user: str | int, *, timeout_ms: float = 5000.0) -> Forgotten:
        """See `RelayClient.forget`."""
        return self._thread.run(self._client.forget(user, timeout_ms=timeout_ms))

    def close(self) -> None:
        """Close the connections and end the thread; repeatable."""
        try:
            with contextlib.suppress(RuntimeError):
                self._thread.run(self._client.close())
        finally:
            self._thread.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
