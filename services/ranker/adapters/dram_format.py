"""The form that psi has in the DRAM tier, and the way between it and a device's pages.

As on the device, nothing is converted and nothing copied twice. As int8, a page goes through
scratch memory: a fixed number of buffers that copies wait for, first come, first served, so that
whatever is in flight has its bound. Conversion runs on threads of its own, neither on the
event loop nor where the model computes.

The form is part of the identity under which an entry is stored: rankers of one host with
different settings miss each other's entries. The device's identity does not change.

Source: docs/decisions/0015-int8-in-dram.md; design, invariants I3, I5, I6, I7.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from relaygr.domain.identity import ModelIdentity
from relaygr.errors import Refused
from services.ranker.adapters.device.interface import Staged
from services.ranker.adapters.device.staging import StagingPool
from services.ranker.adapters.dram_attachment import to_the_end
from services.ranker.adapters.dram_format_int8 import GROUP_ELEMENTS, Int8Codec

Pages = Sequence[NDArray[np.uint8]]
"""One contiguous byte view per page, in order."""

THREADS = 2
LOADS_MAX = 2
"""Reloads of the largest psi that scratch memory has room for, beside the spills."""
SCRATCH_TIMEOUT_S = 1.0
"""A reload that waits longer is no help to the rank it is for; a spill is dropped."""


class PageFormat(Protocol):
    """How pages lie in the DRAM tier. Belongs to one event loop."""

    @property
    def identity(self) -> ModelIdentity:
        """Under which entries are stored: another one for each form."""
        ...

    def room(self, views: Pages) -> AbstractAsyncContextManager[Pages]:
        """Memory for the stored form of these pages, until the context ends.

        Raises:
            Refused: there is not so much of it, or it stayed out too long.
        """
        ...

    async def encode(self, views: Pages, stored: Pages) -> bool:
        """Fill `stored` from a device's pages; False when they hold what has no stored form."""
        ...

    async def decode(self, stored: Pages, views: Pages) -> None:
        """Fill a device's pages from what was stored."""
        ...

    def close(self) -> None:
        """Wait for conversions under way; nobody converts any more."""
        ...


class AsOnDevice:
    """The device's own bytes."""

    def __init__(self, identity: ModelIdentity):
        self.identity = identity

    @asynccontextmanager
    async def room(self, views: Pages) -> AsyncIterator[Pages]:
        """The pages themselves."""
        yield views

    async def encode(self, views: Pages, stored: Pages) -> bool:
        """Nothing to do: they are the same memory."""
        return True

    async def decode(self, stored: Pages, views: Pages) -> None:
        """Nothing to do: they are the same memory."""

    def close(self) -> None:
        """Nothing to do."""


class Int8Pages:
    """Codes of a byte per element.

    Args:
        codec: of one page.
        identity: of the pages on the device.
        pages_max: pages of scratch memory, allocated now and every byte touched.
    """

    def __init__(
        self, codec: Int8Codec, identity: ModelIdentity, pages_max: int, *, timeout_s: float = SCRATCH_TIMEOUT_S
    ):
        self.identity = replace(identity, layout=f"{identity.layout}-dram-int8g{GROUP_ELEMENTS}")
        self._codec = codec
        self._timeout_s = timeout_s
        self._scratch = StagingPool(torch.ones((pages_max, codec.stored_bytes), dtype=torch.uint8))
        self._turn = asyncio.Lock()
        self._given_back = asyncio.Event()
        self._threads = ThreadPoolExecutor(THREADS, "dram-format")

    @property
    def scratch_bytes(self) -> int:
        """Memory for codes in flight."""
        return len(self._scratch) * self._codec.stored_bytes

    @property
    def pages_free(self) -> int:
        """Pages of scratch memory that nobody holds."""
        return self._scratch.free

    @asynccontextmanager
    async def room(self, views: Pages) -> AsyncIterator[Pages]:
        """Scratch memory."""
        taken = await self._take(len(views))
        try:
            yield taken.views
        finally:
            self._scratch.give(taken)
            self._given_back.set()

    async def encode(self, views: Pages, stored: Pages) -> bool:
        """Codes of pages; False when one holds an infinity or a NaN."""
        return await self._run(self._codec.encode, views, stored)

    async def decode(self, stored: Pages, views: Pages) -> None:
        """Pages of codes."""
        await self._run(self._codec.decode, stored, views)

    def close(self) -> None:
        """Wait for conversions under way."""
        self._threads.shutdown()

    async def _take(self, pages: int) -> Staged:
        if pages > len(self._scratch):
            raise Refused(f"{pages} pages, scratch memory holds {len(self._scratch)}")
        try:
            async with asyncio.timeout(self._timeout_s), self._turn:
                # Whoever has the turn takes the next buffers: a large copy is not passed by small ones.
                while (taken := self._scratch.take(pages)) is None:
                    self._given_back.clear()
                    await self._given_back.wait()
        except TimeoutError:
            raise Refused("scratch memory stayed out too long") from None
        return taken

    async def _run(
        self, convert: Callable[[NDArray[np.uint8], NDArray[np.uint8]], bool | None], sources: Pages, targets: Pages
    ) -> bool:
        """Page by page on a thread; a caller who is cancelled waits for the page under way."""
        is_stopped = False

        def all_pages() -> bool:
            for source, target in zip(sources, targets, strict=True):
                if is_stopped or convert(source, target) is False:
                    return False
            return True

        def stop() -> None:
            nonlocal is_stopped
            is_stopped = True

        return await to_the_end(asyncio.get_running_loop().run_in_executor(self._threads, all_pages), stop)
