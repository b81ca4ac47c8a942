"""Ending a task, for certain."""

from __future__ import annotations

import asyncio
from typing import Any

AGAIN_S = 0.5


async def end_task(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait until it is over; its result or error is dropped.

    Not `cancel` and `await`: awaiting under `suppress(CancelledError)` would also swallow
    the caller's own cancellation, and a task may lose one that comes while it is cleaning
    up, so it is told again.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=AGAIN_S)
    if not task.cancelled():
        task.exception()
