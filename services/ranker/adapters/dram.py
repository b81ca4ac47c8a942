"""The ranker's way to the DRAM tier: look up, load, store, forget.

Nothing here raises for a fault of the tier: a miss, False, and the ranker computes. Bytes
that were loaded are reported good only after their digest matched *and* every block still
carried the stamp of what was granted, after the copy: the expander takes stamps back before
blocks change hands and when a user is forgotten. So nobody waits for it to hear that a load
has ended. Memory that a caller hands in is not touched any more once the call has returned,
also when the caller was cancelled.

What this ranker stored or found before it remembers, and then asks nobody (dram_known.py): stamps say whether
the entry is still there, and the expander hears of the use afterwards. Only an entry it knows nothing of is looked up
and pinned by a call.

A store's place in the table of stores in flight is held until the expander is known to have
heard of its end; what it never hears of ends with the attachment.

Source: design, section 3 (expander), invariants I2, I5, I6, I7.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from relaygr.domain.identity import ModelIdentity, PsiKey, UserKey
from relaygr.rpc.channel import ChannelPool
from relaygr.rpc.identity import model_to_pb
from relaygr.runtime.logs import next_step
from relaygr.segment import ContentDigest, Transfer, identity_bytes
from relaygr.v1 import expander_pb2, expander_pb2_grpc
from services.ranker.adapters.dram_attachment import Attacher, Attachment, to_the_end
from services.ranker.adapters.dram_copier import COPY_THREADS, Copier
from services.ranker.adapters.dram_found import NO_PIN, Found
from services.ranker.adapters.dram_known import ENTRIES_MAX, Known, KnownEntries

_log = logging.getLogger(__name__)

Pages = Sequence[NDArray[np.uint8]]

CALL_TIMEOUT_S = 0.05
"""Control calls are on the path of a pre-infer: a DRAM tier that is slower is no help."""
ATTACH_TIMEOUT_S = 1.0
FORGET_TIMEOUT_S = 1.0
STORES_MAX = 4
_HANDS_STEP = next_step("nothing, if a user was forgotten or the tier is full; else test this host's memory")
_MEMORY_STEP = next_step("test this host's memory if it comes again; psi is computed anew")
TIMEOUTS_MAX = 3
"""Calls in a row that may time out before the tier is taken for off."""


@dataclass(slots=True, eq=False)
class _Store:
    """One store in flight."""

    key: PsiKey
    token_count: int
    chain_digest: bytes
    pages: Pages
    producer_traceparent: str
    length_bytes: int
    released: asyncio.Future[bool]
    """Set once the pages are not read any more: whether the entry is visible."""
    is_stopped: bool = False

    def stop(self) -> None:
        """Stop copying at the next piece."""
        self.is_stopped = True

    def release(self, stored: bool) -> None:
        """Give the pages back to the caller."""
        if not self.released.done():
            self.released.set_result(stored)


class DramTier:
    """One host's DRAM tier as seen by one ranker. Belongs to one event loop.

    Args:
        address: host:port of the host's expander.
        channels: where the channel comes from; closed by its owner.
        owner: instance id of the ranker.
        epoch: its boot epoch.
        model: whose psi are stored; keys of other models are never asked for.
        call_timeout_s: of each control call.
        stores_max: stores in flight; more are refused.
        copy_threads: threads that a load may take.
        known_max: entries remembered, to be found without a call; 0: none.
    """

    def __init__(
        self,
        address: str,
        channels: ChannelPool,
        owner: str,
        epoch: int,
        model: ModelIdentity,
        *,
        call_timeout_s: float = CALL_TIMEOUT_S,
        attach_timeout_s: float = ATTACH_TIMEOUT_S,
        stores_max: int = STORES_MAX,
        copy_threads: int = COPY_THREADS,
        known_max: int = ENTRIES_MAX,
    ):
        self._owner = owner
        self._model = model
        self._model_pb = model_to_pb(model)
        self._call_timeout_s = call_timeout_s
        self._stores_max = stores_max
        self._stub = expander_pb2_grpc.ExpanderServiceStub(channels.get(address))
        self._copier = Copier(copy_threads)
        self._attacher = Attacher(self._stub, owner, epoch, self._copier.stores, attach_timeout_s)
        self._stores: dict[PsiKey, _Store] = {}
        self._known = KnownEntries(known_max)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._timeouts = 0

    @property
    def is_attached(self) -> bool:
        """Whether lookups can find anything at the moment."""
        return self._attacher.current is not None

    def start(self, on_attached: Callable[[bool], None] = lambda is_attached: None) -> None:
        """Begin to attach; returns at once. `on_attached` is told when the tier comes and goes."""
        self._attacher.start(on_attached)

    async def close(self) -> None:
        """Stop copies, detach, and end what is under way; repeatable."""
        for store in list(self._stores.values()):
            store.stop()
        await self._attacher.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._copier.close()

    def may_hold(self, key: PsiKey) -> bool:
        """False when a lookup would find nothing, by the segment's presence filter; asks nobody."""
        attachment = self._attacher.current
        return attachment is not None and attachment.segment.presence.may_hold(key)

    async def lookup(self, key: PsiKey) -> Found | None:
        """Find the key's entry; None when there is none or the tier is off.

        One that is remembered is found without a call and not pinned; any other is pinned. The segment's presence
        filter answers for most absent keys without a call, too.
        """
        assert key.model_key == self._model.key, "psi of another model"
        attachment = self._attacher.current
        if attachment is None or not attachment.segment.presence.may_hold(key):
            return None
        remembered = self._known.find(attachment.segment, key)
        if remembered is not None:
            return Found.of(remembered, key, NO_PIN, attachment)
        request = expander_pb2.LookupRequest(key=self._key_pb(key), prepare_load=True, **self._caller(attachment))
        reply = await self._call(self._stub.Lookup, request, attachment)
        if reply is None or not reply.found or attachment.is_ended:
            return None
        known = Known.told(reply.content, reply.generation, reply.blocks)
        if known.blocks:
            self._known.learn(attachment.segment, key, known)
        return Found.of(known, key, reply.pin_id, attachment)

    async def load(self, found: Found, pages: Pages) -> bool:
        """Copy an entry into pages and end its pin, or tell of the use.

        Args:
            found: from `lookup`; spent afterwards.
            pages: contiguous byte views whose lengths add up to found.length_bytes.

        Returns:
            True when the pages hold the entry. Otherwise what they hold is undefined.
        """
        if found.is_spent or found.attachment.is_ended:
            return False
        found.is_spent = True
        is_good, is_bad = False, False
        try:
            is_good, is_bad = await self._load(found, pages)
        finally:
            if not is_good:
                self._known.drop(found.key)
            # One that was remembered and could not be read was not used, and holds nothing.
            has_end = found.is_pinned or is_good or is_bad
            ending = self._spawn(self._complete_load(found, verified=not is_bad)) if has_end else None
        if is_bad and ending is not None:
            await asyncio.wait({ending})  # the entry is gone before its user's psi is stored anew
        return is_good and not found.attachment.is_ended

    async def abandon(self, found: Found) -> None:
        """End a pin unused."""
        if not found.is_spent:
            found.is_spent = True
            if found.is_pinned:
                await self._complete_load(found, verified=True)

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
        attachment = self._attacher.current
        if attachment is None or len(self._stores) >= self._stores_max or key in self._stores:
            return False
        length_bytes = sum(page.nbytes for page in pages)
        released: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        store = _Store(key, token_count, chain_digest, pages, producer_traceparent, length_bytes, released)
        self._stores[key] = store
        self._spawn(self._store(store, attachment))
        return await to_the_end(released, store.stop)

    async def forget(self, owner: UserKey) -> tuple[int, bool]:
        """Purge a user: entries purged, and whether the expander confirmed it."""
        self._known.forget(owner)
        request = expander_pb2.EvictRequest(tenant=owner.tenant, user=owner.user)
        reply = await self._call(self._stub.Evict, request, None, FORGET_TIMEOUT_S)
        return (0, False) if reply is None else (reply.entries, True)

    async def _load(self, found: Found, pages: Pages) -> tuple[bool, bool]:
        """Whether the pages hold the entry, and whether something speaks against the entry."""
        attachment = found.attachment
        blocks = await self._blocks_of(found, pages)
        if blocks is None or attachment.is_ended:
            return False, False
        digest = ContentDigest(identity_bytes(found.key, found.chain_digest), found.token_count, found.length_bytes)
        transfer = Transfer(attachment.segment, blocks, found.generation, pages, digest, is_store=False)
        has_run = await self._copier.run(transfer, attachment)
        if has_run:
            is_right = digest.digest() == found.content_digest
            if not is_right:
                _log.error("an entry of %d tokens failed its digest", found.token_count, extra=_MEMORY_STEP)
            return is_right, not is_right
        if attachment.is_ended or not found.is_pinned:
            return False, False
        # While the pin holds and the key has no other entry, stamps must be there; else the expander drops nothing.
        _log.warning("an entry of %d tokens changed hands during a load", found.token_count, extra=_HANDS_STEP)
        return False, True

    async def _blocks_of(self, found: Found, pages: Pages) -> tuple[int, ...] | None:
        """The blocks to read, or None when pages, pin and grant do not agree."""
        attachment = found.attachment
        if sum(page.nbytes for page in pages) != found.length_bytes:
            return None
        blocks = found.blocks or await self._asked_blocks(found)
        return blocks if self._fits(attachment, blocks, found.length_bytes) else None

    async def _asked_blocks(self, found: Found) -> tuple[int, ...]:
        """The blocks of a pin whose lookup did not tell them, as an older expander's does not; none when it is gone."""
        attachment = found.attachment
        request = expander_pb2.PrepareLoadRequest(pin_id=found.pin_id, **self._caller(attachment))
        grant = await self._call(self._stub.PrepareLoad, request, attachment)
        if grant is None or not grant.granted or grant.generation != found.generation or attachment.is_ended:
            return ()
        return tuple(grant.blocks)

    async def _complete_load(self, found: Found, *, verified: bool) -> None:
        attachment = found.attachment
        if not attachment.is_ended:
            caller = self._caller(attachment)
            request = expander_pb2.CompleteLoadRequest(pin_id=found.pin_id, verified=verified, **caller)
            if not found.is_pinned:
                request.key.CopyFrom(self._key_pb(found.key))
                request.generation = found.generation
            await self._call(self._stub.CompleteLoad, request, attachment)

    async def _store(self, store: _Store, attachment: Attachment) -> None:
        try:
            request = expander_pb2.PrepareStoreRequest(
                key=self._key_pb(store.key),
                length_bytes=store.length_bytes,
                token_count=store.token_count,
                chain_digest=store.chain_digest,
                **self._caller(attachment),
            )
            grant = await self._call(self._stub.PrepareStore, request, attachment)
            if grant is None:
                # It may have been granted: asked again for the same, the expander repeats the grant.
                store.stop()
                store.release(False)
                grant = await self._insist(attachment, self._stub.PrepareStore, request)
            if grant is None or grant.refusal:
                store.release(grant is not None and grant.refusal == expander_pb2.STORE_REFUSAL_PRESENT)
                return
            await self._write(store, attachment, grant)
        finally:
            store.release(False)
            del self._stores[store.key]

    async def _write(self, store: _Store, attachment: Attachment, grant: expander_pb2.PrepareStoreResponse) -> None:
        identity = identity_bytes(store.key, store.chain_digest)
        digest = ContentDigest(identity, store.token_count, store.length_bytes)
        written = False
        if not attachment.is_ended and self._fits(attachment, grant.blocks, store.length_bytes):
            blocks = tuple(grant.blocks)
            transfer = Transfer(attachment.segment, blocks, grant.generation, store.pages, digest, is_store=True)
            written = await self._copier.run(transfer, attachment, lambda: store.is_stopped)
        content = expander_pb2.EntryContent(
            token_count=store.token_count,
            chain_digest=store.chain_digest,
            length_bytes=store.length_bytes,
            content_digest=digest.digest(),
            producer_traceparent=store.producer_traceparent,
        )
        request = expander_pb2.CompleteStoreRequest(
            store_id=grant.store_id, written=written, content=content, **self._caller(attachment)
        )
        reply = None if attachment.is_ended else await self._call(self._stub.CompleteStore, request, attachment)
        if reply is not None and reply.published:
            # Where the same content was there before, these blocks bear no stamp, and the first look forgets them.
            self._known.learn(attachment.segment, store.key, Known.told(content, grant.generation, grant.blocks))
        store.release(reply is not None and reply.published)
        if reply is None:
            await self._insist(attachment, self._stub.CompleteStore, request)

    @staticmethod
    def _fits(attachment: Attachment, blocks: Sequence[int], length_bytes: int) -> bool:
        geometry = attachment.segment.geometry
        wanted = -(-length_bytes // geometry.block_bytes)
        return len(blocks) == wanted and all(block < geometry.block_count for block in blocks)

    async def _insist(self, attachment: Attachment, method: Any, request: Any) -> Any:
        """Repeat a call until it is answered or the attachment has ended."""
        pause_s = self._call_timeout_s
        while not attachment.is_ended:
            reply = await self._call(method, request, attachment)
            if reply is not None:
                return reply
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, 1.0)
        return None

    async def _call(
        self, method: Any, request: Any, attachment: Attachment | None, timeout_s: float | None = None
    ) -> Any:
        """One control call; None for any fault of the tier."""
        try:
            reply = await method(request, timeout=timeout_s or self._call_timeout_s)
        except grpc.aio.AioRpcError as error:
            self._note(error, attachment)
            return None
        except grpc.aio.UsageError:
            return None  # the channel was closed
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return None  # the call was, because the channel was closed
        self._timeouts = 0
        return reply

    def _note(self, error: grpc.aio.AioRpcError, attachment: Attachment | None) -> None:
        match error.code():
            case grpc.StatusCode.DEADLINE_EXCEEDED:
                self._timeouts += 1
                if self._timeouts >= TIMEOUTS_MAX:
                    self._attacher.suspend(attachment)
            case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED | grpc.StatusCode.FAILED_PRECONDITION:
                self._attacher.suspend(attachment)
            case code:
                step = next_step("look into the expander's log under the same trace; psi is computed anew")
                _log.warning("the DRAM tier answered %s: %s", code.name, error.details(), extra=step)

    def _caller(self, attachment: Attachment) -> dict[str, Any]:
        return {"boot_id": attachment.boot_id, "owner": self._owner, "owner_index": attachment.owner_index}

    def _key_pb(self, key: PsiKey) -> expander_pb2.EntryKey:
        return expander_pb2.EntryKey(
            tenant=key.owner.tenant, user=key.owner.user, model=self._model_pb, anchor=key.anchor
        )

    def _spawn(self, coroutine: Any) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
