"""Tells a router of tickets that ended without it, so that their triggers count their bytes no longer.

A rank that goes to its ranker directly passes the router by, which would have told. Tickets are collected for a moment
and sent together, behind the request's back. One that is lost on the way costs speed: it ends with its window.

Source: design, section 3 (trigger, client library), invariants I1, I3.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable

from relaygr.errors import RelayError
from relaygr.v1.common_pb2 import Ticket

DELAY_S = 0.01
"""Short beside a window (half a second), long beside the time between two ranks of a busy client."""
TICKETS_MAX = 1024
"""Waiting; the oldest go first."""
AT_ONCE_MAX = 64
"""As many as a router takes."""
TIMEOUT_S = 0.5


class EndedTickets:
    """Collects and tells; belongs to one event loop.

    Args:
        tell: sends some, with a timeout in seconds; raises RelayError.
    """

    def __init__(self, tell: Callable[[list[Ticket], float], Awaitable[object]]) -> None:
        self._tell = tell
        self._tickets: deque[Ticket] = deque(maxlen=TICKETS_MAX)
        self._telling: asyncio.Task[None] | None = None
        self._is_closed = False

    def put(self, ticket: Ticket) -> None:
        """A ticket has ended."""
        if self._is_closed:
            return
        self._tickets.append(ticket)
        if self._telling is None:
            self._telling = asyncio.create_task(self._tell_all(DELAY_S), name="tell of ended tickets")

    async def close(self) -> None:
        """Tell of what waits, once; whoever cannot be told by then is not."""
        self._is_closed = True
        telling, self._telling = self._telling, None
        if telling is not None:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
        await self._tell_all(0.0)

    async def _tell_all(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        # Those of a report that fails are dropped, and with them the rest: a router that is lost is asked no further.
        with contextlib.suppress(RelayError):
            while self._tickets:
                some = [self._tickets.popleft() for _ in range(min(AT_ONCE_MAX, len(self._tickets)))]
                await self._tell(some, TIMEOUT_S)
        self._tickets.clear()
        self._telling = None
