"""The ranker's way to a pool of psi in another process: the DRAM tier's interface over gRPC.

Nothing here raises for a fault of the pool: a miss, False, and the ranker computes. Bytes
that were fetched are reported good only after their digest matched.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import grpc
import numpy as np
from numpy.typing import NDArray

from bench.load.ablations import pool_wire as wire
from relaygr.domain.identity import PsiKey, UserKey
from relaygr.rpc.channel import channel_options
from relaygr.segment import ContentDigest, identity_bytes
from relaygr.v1.expander_pb2 import EntryContent

Pages = Sequence[NDArray[np.uint8]]

CALL_TIMEOUT_S = 0.25
COPY_TIMEOUT_S = 2.0
PING_S = 0.5
KEPT_MAX = 1024
"""Answers that wait for the lookup they were asked ahead of."""


@dataclass(frozen=True, slots=True)
class PoolFound:
    """What the pool has of a key. Holds nothing there: a fetch may find it gone."""

    key: PsiKey
    token_count: int
    chain_digest: bytes
    length_bytes: int
    producer_traceparent: str
    content_digest: bytes = field(repr=False)
    is_spent: bool = True
    """There is nothing to let go of."""


class PoolTier:
    """A pool as seen by one ranker. Belongs to one event loop.

    Args:
        address: host:port of the pool.
    """

    def __init__(self, address: str) -> None:
        options = [*channel_options(), *wire.OPTIONS]
        self._channel = grpc.aio.insecure_channel(address, options=options)
        self._lookup = self._channel.unary_unary(wire.path_of("Lookup"))
        self._fetch = self._channel.unary_stream(wire.path_of("Fetch"))
        self._store = self._channel.stream_unary(wire.path_of("Store"))
        self._forget = self._channel.unary_unary(wire.path_of("Forget"))
        self._counters = self._channel.unary_unary(wire.path_of("Counters"))
        self._kept: dict[PsiKey, PoolFound] = {}
        self._is_attached = False
        self._keeper: asyncio.Task[None] | None = None

    @property
    def is_attached(self) -> bool:
        """Whether the pool answered lately."""
        return self._is_attached

    def start(self, on_attached: Callable[[bool], None] = lambda is_attached: None) -> None:
        """Begin to look whether the pool is there."""
        self._keeper = asyncio.get_running_loop().create_task(self._keep(on_attached))

    async def close(self) -> None:
        """End; repeatable."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        await self._channel.close()

    def may_hold(self, key: PsiKey) -> bool:
        """True: only the pool knows."""
        return True

    async def find(self, key: PsiKey) -> PoolFound | None:
        """Ask the pool, and keep the answer for the lookup that follows."""
        found = await self._ask(key)
        if found is not None and len(self._kept) < KEPT_MAX:
            self._kept[key] = found
        return found

    async def lookup(self, key: PsiKey) -> PoolFound | None:
        """What the pool has; None when that is nothing or the pool is away."""
        return self._kept.pop(key, None) or await self._ask(key)

    async def load(self, found: PoolFound, pages: Pages) -> bool:
        """Fetch an entry into pages. True when they hold it; otherwise what they hold is undefined."""
        digest = ContentDigest(identity_bytes(found.key, found.chain_digest), found.token_count, found.length_bytes)
        if sum(page.nbytes for page in pages) != found.length_bytes:
            return False
        gaps, left = _Gaps(pages), found.length_bytes
        try:
            async for chunk in self._fetch(wire.key_bytes(found.key), timeout=COPY_TIMEOUT_S):
                if len(chunk) > left:
                    return False
                left -= len(chunk)
                _fill(gaps, np.frombuffer(chunk, np.uint8), digest)
        except grpc.aio.AioRpcError:
            return False
        return not left and digest.digest() == found.content_digest

    async def abandon(self, found: PoolFound) -> None:
        """Nothing is held."""

    async def store(
        self, key: PsiKey, token_count: int, chain_digest: bytes, pages: Pages, producer_traceparent: str = ""
    ) -> bool:
        """Send psi to the pool; pages are read until this returns. True when the pool has it."""
        length_bytes = sum(page.nbytes for page in pages)
        digest = ContentDigest(identity_bytes(key, chain_digest), token_count, length_bytes)
        call = self._store(timeout=COPY_TIMEOUT_S)
        try:
            await call.write(wire.key_bytes(key))
            for chunk in _chunks(pages):
                digest.update(np.frombuffer(chunk, np.uint8))
                await call.write(chunk)
            content = EntryContent(
                token_count=token_count,
                chain_digest=chain_digest,
                length_bytes=length_bytes,
                content_digest=digest.digest(),
                producer_traceparent=producer_traceparent,
            )
            await call.write(content.SerializeToString())
            await call.done_writing()
            return bool(await call == wire.STORED)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return False
        finally:
            call.cancel()

    async def forget(self, owner: UserKey) -> tuple[int, bool]:
        """Purge a user: entries purged, and whether the pool confirmed it."""
        try:
            return int(await self._forget(wire.owner_bytes(owner), timeout=CALL_TIMEOUT_S)), True
        except grpc.aio.AioRpcError:
            return 0, False

    async def counters(self) -> dict[str, int]:
        """The pool's.

        Raises:
            grpc.aio.AioRpcError: it does not answer.
        """
        counts: dict[str, int] = json.loads(await self._counters(b"", timeout=CALL_TIMEOUT_S))
        return counts

    async def _ask(self, key: PsiKey) -> PoolFound | None:
        try:
            raw = await self._lookup(wire.key_bytes(key), timeout=CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError:
            return None
        if not raw:
            return None
        content = EntryContent.FromString(raw)
        return PoolFound(
            key=key,
            token_count=content.token_count,
            chain_digest=content.chain_digest,
            length_bytes=content.length_bytes,
            producer_traceparent=content.producer_traceparent,
            content_digest=content.content_digest,
        )

    async def _keep(self, on_attached: Callable[[bool], None]) -> None:
        while True:
            try:
                await self.counters()
                is_there = True
            except grpc.aio.AioRpcError:
                is_there = False
            if is_there != self._is_attached:
                self._is_attached = is_there
                on_attached(is_there)
            await asyncio.sleep(PING_S)


def _chunks(pages: Pages) -> Iterator[bytes]:
    """The pages' bytes in order, in pieces that one message carries."""
    buffer = bytearray()
    for page in pages:
        data = page.reshape(-1).data
        for first in range(0, page.nbytes, wire.CHUNK_BYTES):
            piece = data[first : first + wire.CHUNK_BYTES]
            if len(buffer) + len(piece) > wire.CHUNK_BYTES:
                yield bytes(buffer)
                buffer.clear()
            buffer += piece
    if buffer:
        yield bytes(buffer)


class _Gaps:
    """Where the next bytes go."""

    def __init__(self, pages: Pages) -> None:
        self._pages = iter(pages)
        self._left: NDArray[np.uint8] = np.empty(0, np.uint8)

    def take(self, most: int) -> NDArray[np.uint8]:
        """The next bytes to be written, at least one and at most so many."""
        if not len(self._left):
            self._left = next(self._pages).reshape(-1)
        piece, self._left = self._left[:most], self._left[most:]
        return piece


def _fill(gaps: _Gaps, chunk: NDArray[np.uint8], digest: ContentDigest) -> None:
    """Copy a chunk to where it belongs, and digest what is there now."""
    done = 0
    while done < len(chunk):
        piece = gaps.take(len(chunk) - done)
        piece[:] = chunk[done : done + len(piece)]
        digest.update(piece)
        done += len(piece)
