"""A device's copies as the event loop sees them: awaited, bounded, never on the loop.

Waits for staging buffers first come, first served; copies on threads of its own. A copy
that is under way when its caller is cancelled is waited for, since the device goes on
touching pages and buffers until it ends.

Source: design, section 9, invariants I3, I6, I7.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import torch

from relaygr.errors import Refused
from services.ranker.adapters.device.interface import Device, Staged
from services.ranker.adapters.dram_attachment import to_the_end

COPIES_MAX = 4
"""Copies at a time: two in each direction keep a link busy while one of each is being queued."""
STAGE_TIMEOUT_S = 1.0
"""A reload that waits longer for buffers is no help to the rank it is for; a spill is dropped."""


class PageCopies:
    """Copies between an arena and the host. Belongs to one event loop."""

    def __init__(self, device: Device, arena: torch.Tensor, *, stage_timeout_s: float = STAGE_TIMEOUT_S):
        self._device = device
        self._arena = arena
        self._stage_timeout_s = stage_timeout_s
        self._turn = asyncio.Lock()
        self._given_back = asyncio.Event()
        self._threads = ThreadPoolExecutor(COPIES_MAX, "device-copy") if device.copies_block else None

    @asynccontextmanager
    async def staged(self, page_ids: Sequence[int]) -> AsyncIterator[Staged]:
        """Host views for these pages, given back at the end.

        Raises:
            Refused: the buffers cannot hold so many pages, or stayed out too long.
        """
        staged = await self._stage(page_ids)
        try:
            yield staged
        finally:
            self._device.release(staged)
            self._given_back.set()

    async def upload(self, page_ids: Sequence[int], staged: Staged) -> None:
        """Make written host views visible in the arena."""
        await self._copy(self._device.upload, page_ids, staged)

    async def download(self, page_ids: Sequence[int], staged: Staged) -> None:
        """Fill the host views with the arena's present content."""
        await self._copy(self._device.download, page_ids, staged)

    def close(self) -> None:
        """Wait for copies under way and close the device; nobody copies any more."""
        if self._threads is not None:
            self._threads.shutdown()
        self._device.close()

    async def _stage(self, page_ids: Sequence[int]) -> Staged:
        if len(page_ids) > self._device.staged_pages_max:
            raise Refused(f"{len(page_ids)} pages, staging holds {self._device.staged_pages_max}")
        try:
            async with asyncio.timeout(self._stage_timeout_s), self._turn:
                # Whoever has the turn takes the next buffers: a large copy is not passed by small ones.
                while (staged := self._device.stage(self._arena, page_ids)) is None:
                    self._given_back.clear()
                    await self._given_back.wait()
        except TimeoutError:
            raise Refused("staging buffers stayed out too long") from None
        return staged

    async def _copy(
        self,
        copy: Callable[[torch.Tensor, Sequence[int], Staged], None],
        page_ids: Sequence[int],
        staged: Staged,
    ) -> None:
        if self._threads is None:
            copy(self._arena, page_ids, staged)
            return
        loop = asyncio.get_running_loop()
        await to_the_end(loop.run_in_executor(self._threads, copy, self._arena, page_ids, staged), lambda: None)
