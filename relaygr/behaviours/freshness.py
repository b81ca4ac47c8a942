"""Keeps a file store at its current generation, off the request path."""

from __future__ import annotations

import asyncio
import logging

from relaygr.behaviours.store import FileStore, StoreError

_log = logging.getLogger(__name__)

REFRESH_S = 5.0
"""How long a rebuilt store may go unnoticed. A cut of an old generation is only a miss."""


def keep_fresh(store: FileStore, period_s: float = REFRESH_S) -> asyncio.Task[None]:
    """Take up a store directory that was built anew, within `period_s`; runs until cancelled."""

    async def refresh_for_ever() -> None:
        while True:
            await asyncio.sleep(period_s)
            try:
                if await asyncio.to_thread(store.refresh):
                    _log.info("behaviour store is at generation %s now", store.meta.generation)
            except (StoreError, OSError, ValueError) as error:
                _log.warning("behaviour store: %s", error)

    return asyncio.create_task(refresh_for_ever(), name="refresh the behaviour store")
