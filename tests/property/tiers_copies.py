"""The segment's own copies, moved on from outside: each runs in a thread that goes on only when it is told to.

A copy asks `should_stop` before each of its steps; there it waits. So any other event of the
world may come between two steps, and only one thread runs at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from relaygr.segment import ContentDigest, MappedSegment, copying
from tests.property.tiers_histories import Bytes

STEP_BYTES = 1024
"""A quarter of a block."""


class _Killed(BaseException):
    """The process is gone in the middle of its copy."""


class SteppedCopy:
    """One copy_in or copy_out."""

    def __init__(
        self,
        segment: MappedSegment,
        blocks: Sequence[int],
        generation: int,
        pages: Sequence[Bytes],
        digest: ContentDigest,
        *,
        is_store: bool,
    ):
        self.blocks, self.generation, self.is_store = tuple(blocks), generation, is_store
        self.result: bool | None = None
        """What the copy returned; None while it is under way."""
        self._arguments = (segment, self.blocks, generation, pages, digest, self._wait_for_turn, STEP_BYTES)
        self._is_stopped = self._is_killed = False
        self._error: BaseException | None = None
        self._turn, self._parked = threading.Semaphore(0), threading.Semaphore(0)
        self._thread: threading.Thread | None = None

    @property
    def is_over(self) -> bool:
        """True once it touches nothing any more."""
        return self.result is not None or self._is_killed

    def step(self) -> None:
        """Let it get on by one step."""
        if self.is_over:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        else:
            self._turn.release()
        self._parked.acquire()
        if self._error is not None:
            raise self._error

    def tell_to_stop(self) -> None:
        """It stops at its next step."""
        self._is_stopped = True

    def stop(self) -> None:
        """Tell it to stop, and wait until it has."""
        self.tell_to_stop()
        while not self.is_over:
            self.step()

    def kill(self) -> None:
        """End its thread where it is."""
        if not self.is_over:
            self._is_killed = True
            if self._thread is not None:
                self._turn.release()
                self._parked.acquire()

    def _run(self) -> None:
        copy = copying.copy_in if self.is_store else copying.copy_out
        try:
            self.result = copy(*self._arguments)
        except _Killed:
            pass
        except BaseException as error:  # raised in the thread that steps it
            self._error = error
        self._parked.release()

    def _wait_for_turn(self) -> bool:
        self._parked.release()
        self._turn.acquire()
        if self._is_killed:
            raise _Killed
        return self._is_stopped
