"""The ranker's way to a DRAM tier on another host: the same six verbs, over gRPC streams.

It stands where `DramTier` does, for a ranker whose host has no expander. Slower, and so only
for what no rank waits for: the lookup and reload of a pre-infer, and copies out. As there,
nothing raises for a fault of the tier, and memory that a caller hands in is not touched any
more once the call has returned.

"Found" is said with a hold here too: a lookup opens the stream that will bring the bytes,
and the expander pins the entry for as long as the stream lasts. `load` goes on with it,
`abandon` cancels it, and a ranker that dies has cancelled it. Bytes are reported good only
after their digest matched in the pages where they arrived *and* the expander said after
that, in the same stream, that the pin had held.

There is no presence filter: who has not asked does not know. An absent key costs a round trip.

Source: design, section 3 (expander), invariants I2, I5, I6, I7.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from relaygr.domain.identity import ModelIdentity, PsiKey, UserKey
from relaygr.rpc.channel import ChannelPool
from relaygr.rpc.identity import model_to_pb
from relaygr.runtime.logs import next_step
from relaygr.segment import ContentDigest, identity_bytes
from relaygr.segment.pieces import CHUNK_BYTES, Pieces
from relaygr.v1 import expander_pb2, expander_pb2_grpc, transfer_pb2, transfer_pb2_grpc
from services.ranker.adapters.dram_attachment import to_the_end
from services.ranker.adapters.dram_remote_reach import Reach, RemoteCost

_log = logging.getLogger(__name__)

Pages = Sequence[NDArray[np.uint8]]

LOOKUP_TIMEOUT_S = 0.05
"""To the first message. A lookup is on the path of a pre-infer: a tier that is slower is no help."""
FETCH_TIMEOUT_S = 1.5
"""Of a whole fetch; the expander lets a pin live for a little longer."""
STORE_TIMEOUT_S = 5.0
FORGET_TIMEOUT_S = 1.0
REACH_TIMEOUT_S = 1.0
STORES_MAX = 4
TIMEOUTS_MAX = 3
"""Lookups in a row that may time out before the tier is taken for off."""
_FAULTS = (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError, TimeoutError)


@dataclass(slots=True)
class RemoteFound:
    """An entry that is pinned while its stream lasts. To be ended once, by `load` or `abandon`."""

    key: PsiKey
    token_count: int
    chain_digest: bytes
    length_bytes: int
    producer_traceparent: str
    content_digest: bytes = field(repr=False)
    stream: Any = field(repr=False)
    is_spent: bool = False


class RemoteDramTier:
    """Another host's DRAM tier as seen by one ranker. Belongs to one event loop.

    Args:
        address: host:port of the expander.
        channels: where the channel comes from; closed by its owner.
        owner: instance id of the ranker; the expander's copies are its own, so it need not be told.
        epoch: its boot epoch, as little needed.
        model: whose psi are stored; keys of other models are never asked for.
        on_measured: told what bytes take, each time the tier is about to come.
        lookup_timeout_s: to a lookup's answer.
        fetch_timeout_s: of a whole reload, lookup included.
        store_timeout_s: of a whole copy out.
        stores_max: stores in flight; more are refused.
    """

    def __init__(
        self,
        address: str,
        channels: ChannelPool,
        owner: str,
        epoch: int,
        model: ModelIdentity,
        *,
        on_measured: Callable[[RemoteCost], None] = lambda cost: None,
        lookup_timeout_s: float = LOOKUP_TIMEOUT_S,
        fetch_timeout_s: float = FETCH_TIMEOUT_S,
        store_timeout_s: float = STORE_TIMEOUT_S,
        stores_max: int = STORES_MAX,
    ):
        self._model = model
        self._model_pb = model_to_pb(model)
        self._lookup_timeout_s = lookup_timeout_s
        self._fetch_timeout_s = fetch_timeout_s
        self._store_timeout_s = store_timeout_s
        self._stores_max = stores_max
        self._expander = expander_pb2_grpc.ExpanderServiceStub(channels.get(address))
        self._transfer = transfer_pb2_grpc.TransferServiceStub(channels.get(address))
        self._reach = Reach(self._expander, self._transfer, REACH_TIMEOUT_S, on_measured)
        self._digesting = ThreadPoolExecutor(1, thread_name_prefix="dram-digest")
        self._stores: set[PsiKey] = set()
        self._streams: set[Any] = set()
        self._timeouts = 0

    @property
    def is_attached(self) -> bool:
        """Whether lookups can find anything at the moment."""
        return self._reach.is_reached

    def start(self, on_attached: Callable[[bool], None] = lambda is_attached: None) -> None:
        """Begin to reach for it; returns at once. `on_attached` is told when the tier comes and goes."""
        self._reach.start(on_attached)

    async def close(self) -> None:
        """End what is under way; repeatable."""
        await self._reach.close()
        for stream in list(self._streams):
            stream.cancel()
        self._digesting.shutdown(wait=False)

    def may_hold(self, key: PsiKey) -> bool:
        """True while the tier is reached: only the expander knows more."""
        return self._reach.is_reached

    async def lookup(self, key: PsiKey) -> RemoteFound | None:
        """Find and pin the key's entry; None when there is none or the tier is off."""
        assert key.model_key == self._model.key, "psi of another model"
        if not self._reach.is_reached:
            return None
        stream = self._transfer.Fetch(timeout=self._fetch_timeout_s)
        self._keep(stream)
        found = None
        try:
            async with asyncio.timeout(self._lookup_timeout_s):
                await stream.write(transfer_pb2.FetchRequest(find=self._key_pb(key)))
                first = await _next(stream)
            self._timeouts = 0
            if first is not None and first.begin.found:
                found = _found_of(key, first.begin.content, stream)
        except _FAULTS as error:
            self._note(error)
        except asyncio.CancelledError:
            if _is_ours():
                raise
        finally:
            if found is None:
                stream.cancel()
        return found

    async def load(self, found: RemoteFound, pages: Pages) -> bool:
        """Read an entry into pages and end its pin.

        Args:
            found: from `lookup`; spent afterwards.
            pages: contiguous byte views whose lengths add up to found.length_bytes.

        Returns:
            True when the pages hold the entry. Otherwise what they hold is undefined.
        """
        if found.is_spent:
            return False
        found.is_spent = True
        try:
            if sum(page.nbytes for page in pages) != found.length_bytes:
                return False
            async with asyncio.timeout(self._fetch_timeout_s):
                return await _read_into(pages, found)
        except _FAULTS as error:
            self._note(error)
            return False
        except asyncio.CancelledError:
            if _is_ours():
                raise
            return False
        finally:
            found.stream.cancel()

    async def abandon(self, found: RemoteFound) -> None:
        """End a pin unused."""
        found.is_spent = True
        found.stream.cancel()

    async def store(
        self, key: PsiKey, token_count: int, chain_digest: bytes, pages: Pages, producer_traceparent: str = ""
    ) -> bool:
        """Copy psi out and publish it.

        Args:
            key: whose psi.
            token_count: prefix tokens that the pages hold.
            chain_digest: of these tokens.
            pages: contiguous byte views, read until this returns.
            producer_traceparent: of the span that produced it.

        Returns:
            True when the tier now has this content. False also when too many are in flight.
        """
        assert key.model_key == self._model.key, "psi of another model"
        if not self._reach.is_reached or len(self._stores) >= self._stores_max or key in self._stores:
            return False
        self._stores.add(key)
        try:
            content = expander_pb2.EntryContent(
                token_count=token_count,
                chain_digest=chain_digest,
                length_bytes=sum(page.nbytes for page in pages),
                producer_traceparent=producer_traceparent,
            )
            content.content_digest = await self._digest_of(key, content, pages)
            return await self._send(transfer_pb2.StoreBegin(key=self._key_pb(key), content=content), pages)
        finally:
            self._stores.discard(key)

    async def forget(self, owner: UserKey) -> tuple[int, bool]:
        """Purge a user: entries purged, and whether the expander confirmed it."""
        request = expander_pb2.EvictRequest(tenant=owner.tenant, user=owner.user)
        try:
            reply = await self._expander.Evict(request, timeout=FORGET_TIMEOUT_S)
        except _FAULTS as error:
            self._note(error)
            return 0, False
        except asyncio.CancelledError:
            if _is_ours():
                raise
            return 0, False
        return reply.entries, True

    async def _digest_of(self, key: PsiKey, content: expander_pb2.EntryContent, pages: Pages) -> bytes:
        """Of all pages, on a thread: it is told before the first byte, and takes too long for the loop."""
        digest = ContentDigest(identity_bytes(key, content.chain_digest), content.token_count, content.length_bytes)

        def work() -> bytes:
            for page in pages:
                digest.update(page)
            return digest.digest()

        loop = asyncio.get_running_loop()
        return await to_the_end(loop.run_in_executor(self._digesting, work), lambda: None)

    async def _send(self, begin: transfer_pb2.StoreBegin, pages: Pages) -> bool:
        stream = self._transfer.Store(timeout=self._store_timeout_s)
        self._keep(stream)
        try:
            async with asyncio.timeout(self._store_timeout_s):
                return await _write_from(pages, begin, stream)
        except _FAULTS as error:
            self._note(error)
            return False
        except asyncio.CancelledError:
            if _is_ours():
                raise
            return False
        finally:
            stream.cancel()

    def _note(self, error: Exception) -> None:
        """A fault: whether the tier is to be taken for off."""
        if not isinstance(error, grpc.aio.AioRpcError):
            code = grpc.StatusCode.DEADLINE_EXCEEDED if isinstance(error, TimeoutError) else grpc.StatusCode.CANCELLED
        else:
            code = error.code()
        match code:
            case grpc.StatusCode.DEADLINE_EXCEEDED:
                self._timeouts += 1
                if self._timeouts >= TIMEOUTS_MAX:
                    self._reach.suspend()
            case grpc.StatusCode.UNAVAILABLE:
                self._reach.suspend()
            case grpc.StatusCode.CANCELLED | grpc.StatusCode.RESOURCE_EXHAUSTED:
                pass  # Given up here, or full there: the next may go through.
            case _:
                step = next_step("look into the expander's log; psi is computed anew")
                _log.warning("the remote DRAM tier answered %s: %s", code.name, error, extra=step)

    def _keep(self, stream: Any) -> None:
        """Until it has ended, so that closing ends it."""
        self._streams.add(stream)
        stream.add_done_callback(self._streams.discard)

    def _key_pb(self, key: PsiKey) -> expander_pb2.EntryKey:
        return expander_pb2.EntryKey(
            tenant=key.owner.tenant, user=key.owner.user, model=self._model_pb, anchor=key.anchor
        )


def _found_of(key: PsiKey, content: expander_pb2.EntryContent, stream: Any) -> RemoteFound:
    return RemoteFound(
        key=key,
        token_count=content.token_count,
        chain_digest=content.chain_digest,
        length_bytes=content.length_bytes,
        producer_traceparent=content.producer_traceparent,
        content_digest=content.content_digest,
        stream=stream,
    )


async def _read_into(pages: Pages, found: RemoteFound) -> bool:
    """Take, check, finish. True when every byte came, is right, and was held to the end."""
    stream, pieces = found.stream, Pieces(pages, found.length_bytes)
    digest = ContentDigest(identity_bytes(found.key, found.chain_digest), found.token_count, found.length_bytes)
    await stream.write(transfer_pb2.FetchRequest(take=transfer_pb2.FetchTake()))
    while pieces.left_bytes:
        message = await _next(stream)
        if message is None or not message.HasField("chunk"):
            return False
        chunk = message.chunk
        if chunk.offset_bytes != pieces.done_bytes or not 0 < len(chunk.data) <= pieces.left_bytes:
            return False
        pieces.write(chunk.data, digest)
    if digest.digest() != found.content_digest:
        # The expander sends the last chunk only of what is right where it lies, so this came about on the way.
        step = next_step("test the network and this host's memory if it comes again; psi is computed anew")
        _log.error("an entry of %d tokens failed its digest on the way", found.token_count, extra=step)
        return False
    await stream.write(transfer_pb2.FetchRequest(finish=transfer_pb2.FetchFinish()))
    last = await _next(stream)
    return last is not None and bool(last.end.held)


async def _write_from(pages: Pages, begin: transfer_pb2.StoreBegin, stream: Any) -> bool:
    """Ask for room, send, hear the outcome. True when the content is visible there."""
    await stream.write(transfer_pb2.StoreRequest(begin=begin))
    answer = await _next(stream)
    if answer is None:
        return False
    if answer.grant.refusal:
        return bool(answer.grant.refusal == expander_pb2.STORE_REFUSAL_PRESENT)
    pieces = Pieces(pages, begin.content.length_bytes)
    while pieces.left_bytes:
        chunk = transfer_pb2.Chunk(offset_bytes=pieces.done_bytes, data=pieces.read(CHUNK_BYTES))
        await stream.write(transfer_pb2.StoreRequest(chunk=chunk))
    await stream.done_writing()
    last = await _next(stream)
    return last is not None and bool(last.outcome.published)


async def _next(stream: Any) -> Any:
    """The next message; None at the end, and for bytes that are no message, of which gRPC makes nothing more."""
    message = await stream.read()
    return None if message is grpc.aio.EOF else message


def _is_ours() -> bool:
    """Of a cancellation: true when the task was cancelled, and not its call because the channel was closed."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
