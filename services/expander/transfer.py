"""Entries for rankers of other hosts, over gRPC streams: message to domain, copy, answer.

The copying is this process's own, as one more owner of the segment: a fetch reads under a
pin, a store writes under a grant, and both end with the stream that they are for, however
it ends. gRPC's flow control sets the pace: the next chunk is copied when the last one was
taken, so a stream costs a chunk here beside what the transport holds. A stream that takes
longer than its pin or grant could live is ended.

A chunk is copied on the event loop, see `relaygr.segment.pieces`. So the core changes
between chunks and never during one, and what it says before a chunk is true of all of it.

Source: design, section 3 (expander), invariants I3, I5, I6, I7.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from relaygr.domain.identity import PsiKey
from relaygr.errors import CorruptData, DeadlineTooShort, InvalidRequest, Refused, RelayError, Stale
from relaygr.rpc.deadline import remaining_ns
from relaygr.rpc.status import ERROR_METADATA_KEY, message_of, status_of
from relaygr.segment import ContentDigest, OwnedSegment, identity_bytes
from relaygr.segment.pieces import CHUNK_BYTES, Pieces
from relaygr.v1 import transfer_pb2 as pb
from relaygr.v1.transfer_pb2_grpc import TransferServiceServicer
from services.expander.adapters.local_owner import LocalOwner
from services.expander.config import TransferLimits
from services.expander.core.effects import Found, LoadGrant, StoreGrant, StoreRefusal
from services.expander.core.entries import Content
from services.expander.core.tiering import Tiering
from services.expander.metrics import TransferMetrics
from services.expander.service import REFUSALS, content_of, content_to_pb, key_of

PROBE_BYTES_MAX = 4 * 1024 * 1024
PROBE_S = 2.0
STATUS_S = 0.5
"""A status waits behind the bytes that a peer did not take; longer than this nobody waits with it."""


class TransferService(TransferServiceServicer):
    """Serves the streams."""

    def __init__(
        self,
        tiering: Tiering,
        owned: OwnedSegment,
        owner: LocalOwner,
        limits: TransferLimits,
        metrics: TransferMetrics,
        clock: Callable[[], int] = time.monotonic_ns,
    ):
        self._tiering = tiering
        self._owned = owned
        self._owner = owner
        self._limits = limits
        self._metrics = metrics
        self._clock = clock
        self._open: Counter[str] = Counter()
        self._storing: set[PsiKey] = set()
        metrics.observe(self._open)

    async def Fetch(self, requests: Any, context: grpc.aio.ServicerContext) -> None:
        """Find, pin, send."""
        await self._answer("FETCH", context, self._limits.fetch_s, lambda: self._fetch(context))

    async def Store(self, requests: Any, context: grpc.aio.ServicerContext) -> None:
        """Grant, take, check, publish."""
        await self._answer("STORE", context, self._limits.store_s, lambda: self._store(context))

    async def Probe(self, request: pb.ProbeRequest, context: grpc.aio.ServicerContext) -> None:
        """Send bytes of no meaning."""
        await self._answer("PROBE", context, PROBE_S, lambda: _probe(request, context))

    # Streams

    async def _answer(
        self, kind: str, context: grpc.aio.ServicerContext, limit_s: float, work: Callable[[], Awaitable[None]]
    ) -> None:
        """Do a stream's work within its bounds; a fault becomes its status."""
        limit_s = min(limit_s, remaining_ns(context, int(limit_s * 1e9)) / 1e9)
        try:
            with self._counted(kind):
                async with asyncio.timeout(limit_s):
                    await work()
            return
        except TimeoutError:
            fault: RelayError = DeadlineTooShort(f"the stream took more than {limit_s:.1f} s", is_definite=False)
        except RelayError as error:
            fault = error
        await _abort(context, fault)

    @contextlib.contextmanager
    def _counted(self, kind: str) -> Iterator[None]:
        if self._open.total() >= self._limits.streams_max:
            raise Refused(f"{self._limits.streams_max} streams are open")
        self._open[kind] += 1
        try:
            yield
        finally:
            self._open[kind] -= 1

    # Fetch

    async def _fetch(self, context: grpc.aio.ServicerContext) -> None:
        first = await _read(context)
        if first is None or not first.HasField("find"):
            raise InvalidRequest("find", "must be the first message")
        key, index = key_of(first.find, "find"), self._owner.attached()
        found = self._tiering.lookup(index, key, self._clock())
        self._metrics.looked_up("HIT" if found else "MISS")
        if found is None:
            await context.write(pb.FetchResponse(begin=pb.FetchBegin(found=False)))
            return
        is_right = True
        try:
            begin = pb.FetchBegin(found=True, content=content_to_pb(found.content))
            await context.write(pb.FetchResponse(begin=begin))
            if not await _has_come(context, "take"):
                return
            is_right = await self._send(index, key, found, context)
            if is_right and self._granted(index, found) is not None and not await _has_come(context, "finish"):
                return
        finally:
            held = self._tiering.complete_load(index, found.pin_id, is_right, self._clock())
        await context.write(pb.FetchResponse(end=pb.FetchEnd(held=held)))

    async def _send(self, index: int, key: PsiKey, found: Found, context: grpc.aio.ServicerContext) -> bool:
        """All chunks, or as many as the pin lasts; the last one only when the digest is right.

        Returns:
            False when the bytes here are not what was stored.
        """
        grant = self._granted(index, found)
        if grant is None or not self._owner.segment.owns(grant.blocks, grant.generation):
            return True  # The pin is gone, which says nothing against the entry.
        content, segment = grant.content, self._owner.segment
        pieces = Pieces([segment.block(block) for block in grant.blocks], content.length_bytes)
        digest = ContentDigest(identity_bytes(key, content.chain_digest), content.tokens, content.length_bytes)
        while pieces.left_bytes:
            if self._granted(index, found) is None:
                return True
            chunk = pb.Chunk(offset_bytes=pieces.done_bytes, data=pieces.read(CHUNK_BYTES, digest))
            if not pieces.left_bytes and segment.owns(grant.blocks, grant.generation):
                if digest.digest() != content.content_digest:
                    return False
            self._metrics.moved("FETCH", len(chunk.data))
            await context.write(pb.FetchResponse(chunk=chunk))
        return True

    def _granted(self, index: int, found: Found) -> LoadGrant | None:
        """The blocks, while the pin holds and the user is not forgotten."""
        if not self._owner.is_current(index):
            return None
        return self._tiering.prepare_load(index, found.pin_id, self._clock())

    # Store

    async def _store(self, context: grpc.aio.ServicerContext) -> None:
        first = await _read(context)
        if first is None or not first.HasField("begin"):
            raise InvalidRequest("begin", "must be the first message")
        key, content = key_of(first.begin.key, "begin.key"), content_of(first.begin.content, "begin.content")
        if content.length_bytes > self._limits.entry_bytes_max:
            raise InvalidRequest("begin.content.length_bytes", f"above {self._limits.entry_bytes_max}")
        if key in self._storing:
            # The core gives one owner one grant for one content: two streams would write the same blocks.
            await self._refuse(StoreRefusal.BUSY, context)
            return
        self._storing.add(key)
        try:
            await self._take(self._owner.attached(), key, content, context)
        finally:
            self._storing.discard(key)

    async def _take(self, index: int, key: PsiKey, content: Content, context: grpc.aio.ServicerContext) -> None:
        answer = self._tiering.prepare_store(
            index, key, content.tokens, content.chain_digest, content.length_bytes, self._clock()
        )
        if isinstance(answer, StoreRefusal):
            await self._refuse(answer, context)
            return
        written = False
        try:
            await context.write(pb.StoreResponse(grant=pb.StoreGrant()))
            await self._receive(index, key, content, answer, context)
            written = True
        finally:
            # What was refused, cut off or cancelled gives its blocks back here, and at once.
            published = self._tiering.complete_store(index, answer.store_id, written, content, self._clock())
            self._metrics.stored("PUBLISHED" if published else "DISCARDED")
        await context.write(pb.StoreResponse(outcome=pb.StoreOutcome(published=published)))

    async def _receive(
        self, index: int, key: PsiKey, content: Content, grant: StoreGrant, context: grpc.aio.ServicerContext
    ) -> None:
        """All chunks, into the granted blocks; returns when they are there and right."""
        segment = self._owner.segment
        pieces = Pieces([segment.block(block) for block in grant.blocks], content.length_bytes)
        digest = ContentDigest(identity_bytes(key, content.chain_digest), content.tokens, content.length_bytes)
        while (message := await _read(context)) is not None:
            if not message.HasField("chunk"):
                raise InvalidRequest("chunk", "must follow what was begun")
            _check_chunk(message.chunk, pieces)
            if not self._owner.is_current(index) or not segment.owns(grant.blocks, grant.generation):
                raise Stale("the grant has ended")
            pieces.write(message.chunk.data, digest)
            self._metrics.moved("STORE", len(message.chunk.data))
        if pieces.left_bytes:
            said, came = content.length_bytes, pieces.done_bytes
            raise InvalidRequest("begin.content.length_bytes", f"is {said}, and {came} bytes came")
        if digest.digest() != content.content_digest:
            raise CorruptData("begin.content.content_digest: is not that of the bytes that came")

    async def _refuse(self, refusal: StoreRefusal, context: grpc.aio.ServicerContext) -> None:
        self._metrics.stored(refusal.name)
        await context.write(pb.StoreResponse(grant=pb.StoreGrant(refusal=REFUSALS[refusal])))


async def _probe(request: pb.ProbeRequest, context: grpc.aio.ServicerContext) -> None:
    if not 0 < request.length_bytes <= PROBE_BYTES_MAX:
        raise InvalidRequest("length_bytes", f"must be from 1 to {PROBE_BYTES_MAX}")
    left, data = request.length_bytes, bytes(min(request.length_bytes, CHUNK_BYTES))
    while left:
        await context.write(pb.ProbeResponse(data=data[:left]))
        left -= min(left, CHUNK_BYTES)


async def _has_come(context: grpc.aio.ServicerContext, step: str) -> bool:
    """The next step, which must be this one. False: the caller wants no more."""
    message = await _read(context)
    if message is not None and not message.HasField(step):
        raise InvalidRequest(step, "was to come")
    return message is not None


async def _read(context: grpc.aio.ServicerContext) -> Any:
    """The next message; None at the end."""
    try:
        message = await context.read()
    except DecodeError:
        raise InvalidRequest("request", "cannot be parsed") from None
    return None if message is grpc.aio.EOF else message


async def _abort(context: grpc.aio.ServicerContext, fault: RelayError) -> None:
    metadata = ((ERROR_METADATA_KEY, type(fault).__name__),)
    async with asyncio.timeout(STATUS_S):
        await context.abort(status_of(fault), message_of(fault), metadata)


def _check_chunk(chunk: pb.Chunk, pieces: Pieces) -> None:
    if chunk.offset_bytes != pieces.done_bytes:
        raise InvalidRequest("chunk.offset_bytes", f"is {chunk.offset_bytes}, {pieces.done_bytes} was to come")
    if not 0 < len(chunk.data) <= CHUNK_BYTES:
        raise InvalidRequest("chunk.data", f"must be from 1 to {CHUNK_BYTES} bytes")
    if len(chunk.data) > pieces.left_bytes:
        raise InvalidRequest("chunk.data", "goes beyond begin.content.length_bytes")
