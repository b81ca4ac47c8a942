"""Looks after a call that takes long: asks whether its peer is silent, and then ends it.

The call runs in the caller's own task, and nothing but a timer is made as long as it is quick. Ending it is what
asyncio.timeout does, which would be made and entered for every call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Generic, TypeVar

Subject = TypeVar("Subject")


class Patience(Generic[Subject]):
    """With what the current task is about to wait for; begins with being made.

    Args:
        wait_s: the call is not looked after before.
        is_silent: asked then, about `subject`; True ends the call: the task is cancelled, once.
        subject: whom it is asked about.
    """

    __slots__ = ("_is_silent", "_looking", "_owner", "_subject", "_timer", "_was_ended")

    def __init__(
        self, wait_s: float, is_silent: Callable[[Subject], Coroutine[None, None, bool]], subject: Subject
    ) -> None:
        self._is_silent = is_silent
        self._subject = subject
        self._owner = asyncio.current_task()
        self._looking: asyncio.Task[None] | None = None
        self._was_ended = False
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._begin)

    @property
    def has_ended_it(self) -> bool:
        """True when it was this that cancelled the task, and nobody else did, who would mean the whole request."""
        return self._was_ended and self._owner is not None and self._owner.cancelling() == 1

    def close(self) -> None:
        """The call is over, one way or the other. The task goes on as if it had not been cancelled by this."""
        self._timer.cancel()
        if self._looking is not None:
            self._looking.cancel()
            if self._was_ended and self._owner is not None:
                self._owner.uncancel()

    def _begin(self) -> None:
        self._looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        if await self._is_silent(self._subject) and self._owner is not None and not self._owner.cancelling():
            self._was_ended = True
            self._owner.cancel()
