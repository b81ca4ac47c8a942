"""The expander's gRPC edge: message to domain, attachment, answer. The decisions are the core's.

Source: design, section 3 (expander).
"""

from __future__ import annotations

import time
from collections.abc import Callable

import grpc

from relaygr.domain.chain import DIGEST_BYTES as CHAIN_DIGEST_BYTES
from relaygr.domain.identity import PsiKey
from relaygr.domain.instance import ID_BYTES_MAX
from relaygr.errors import InvalidRequest, Refused, Stale
from relaygr.rpc.identity import model_from_pb, user_key_of
from relaygr.segment import OwnedSegment
from relaygr.segment.digest import DIGEST_BYTES
from relaygr.telemetry import Telemetry, names
from relaygr.telemetry.provider import current_span
from relaygr.v1 import expander_pb2 as pb
from relaygr.v1.expander_pb2_grpc import ExpanderServiceServicer
from services.expander.core.effects import StoreGrant, StoreRefusal
from services.expander.core.entries import Content
from services.expander.core.tiering import Tiering
from services.expander.metrics import ExpanderMetrics

TRACEPARENT_CHARS_MAX = 128
MODEL_FIELD_CHARS_MAX = 256

REFUSALS = {
    StoreRefusal.PRESENT: pb.STORE_REFUSAL_PRESENT,
    StoreRefusal.NO_SPACE: pb.STORE_REFUSAL_NO_SPACE,
    StoreRefusal.FORGOTTEN: pb.STORE_REFUSAL_FORGOTTEN,
    StoreRefusal.BUSY: pb.STORE_REFUSAL_BUSY,
    StoreRefusal.NOT_YET: pb.STORE_REFUSAL_NOT_YET,
}
_Call = (
    pb.LookupRequest | pb.PrepareLoadRequest | pb.CompleteLoadRequest | pb.PrepareStoreRequest | pb.CompleteStoreRequest
)


class ExpanderService(ExpanderServiceServicer):
    """Serves the verbs. No verb waits for anything, so none needs a deadline."""

    def __init__(
        self,
        tiering: Tiering,
        segment: OwnedSegment,
        telemetry: Telemetry,
        heartbeat_ns: int,
        clock: Callable[[], int] = time.monotonic_ns,
    ):
        self._tiering = tiering
        self._segment = segment
        self._heartbeat_ns = heartbeat_ns
        self._clock = clock
        self._metrics = ExpanderMetrics(telemetry, tiering, segment.geometry.block_bytes)

    async def Attach(self, request: pb.AttachRequest, context: grpc.aio.ServicerContext) -> pb.AttachResponse:
        """Join or renew."""
        _check_text("owner", request.owner, ID_BYTES_MAX)
        index = self._tiering.attach(request.owner, request.owner_epoch, self._clock())
        if index is None:
            raise Refused("every owner index is taken")
        return pb.AttachResponse(
            boot_id=self._segment.boot_id,
            segment_path=str(self._segment.path),
            segment_bytes=self._segment.geometry.total_bytes,
            block_bytes=self._segment.geometry.block_bytes,
            owner_index=index,
            lock_path=str(self._segment.locks.path),
            heartbeat_ns=self._heartbeat_ns,
        )

    async def Lookup(self, request: pb.LookupRequest, context: grpc.aio.ServicerContext) -> pb.LookupResponse:
        """Find and pin; the blocks at once, for a caller that will read them."""
        key = key_of(request.key)
        now_ns = self._current(request)
        found = self._tiering.lookup(request.owner_index, key, now_ns)
        self._metrics.looked_up("HIT" if found else "MISS")
        current_span().set_attribute(names.ATTR_DRAM_OUTCOME, "HIT" if found else "MISS")
        if found is None:
            return pb.LookupResponse(found=False)
        if request.prepare_load:
            current_span().set_attribute(names.ATTR_DRAM_BLOCKS, len(found.blocks))
        return pb.LookupResponse(
            found=True,
            pin_id=found.pin_id,
            generation=found.generation,
            content=content_to_pb(found.content),
            blocks=found.blocks if request.prepare_load else (),
        )

    async def PrepareLoad(
        self, request: pb.PrepareLoadRequest, context: grpc.aio.ServicerContext
    ) -> pb.PrepareLoadResponse:
        """The blocks of a pin."""
        grant = self._tiering.prepare_load(request.owner_index, request.pin_id, self._current(request))
        if grant is None:
            return pb.PrepareLoadResponse(granted=False)
        current_span().set_attribute(names.ATTR_DRAM_BLOCKS, len(grant.blocks))
        return pb.PrepareLoadResponse(
            granted=True, blocks=grant.blocks, generation=grant.generation, content=content_to_pb(grant.content)
        )

    async def CompleteLoad(
        self, request: pb.CompleteLoadRequest, context: grpc.aio.ServicerContext
    ) -> pb.CompleteLoadResponse:
        """End a pin, or count a read that had none."""
        if request.pin_id:
            now_ns = self._current(request)
            held = self._tiering.complete_load(request.owner_index, request.pin_id, request.verified, now_ns)
            return pb.CompleteLoadResponse(held=held)
        key = key_of(request.key)
        if not request.generation:
            raise InvalidRequest("generation", "must not be zero without a pin_id")
        now_ns = self._current(request)
        held = self._tiering.complete_unpinned(request.owner_index, key, request.generation, request.verified, now_ns)
        self._metrics.looked_up("HIT" if held else "GONE")
        current_span().set_attribute(names.ATTR_DRAM_OUTCOME, "HIT" if held else "GONE")
        return pb.CompleteLoadResponse(held=held)

    async def PrepareStore(
        self, request: pb.PrepareStoreRequest, context: grpc.aio.ServicerContext
    ) -> pb.PrepareStoreResponse:
        """Reserve blocks."""
        key = key_of(request.key)
        _check_size(request.length_bytes, request.token_count, request.chain_digest, "")
        now_ns = self._current(request)
        if not self._segment.locks.is_held(request.owner_index):
            # Without the lock nobody could tell a writer that stopped from one that died.
            raise Stale("the caller does not hold its byte of the lock file")
        answer = self._tiering.prepare_store(
            request.owner_index, key, request.token_count, request.chain_digest, request.length_bytes, now_ns
        )
        match answer:
            case StoreGrant(store_id, blocks, generation):
                current_span().set_attribute(names.ATTR_DRAM_BLOCKS, len(blocks))
                return pb.PrepareStoreResponse(store_id=store_id, blocks=blocks, generation=generation)
            case StoreRefusal():
                self._metrics.stored(answer.name)
                current_span().set_attribute(names.ATTR_DRAM_OUTCOME, answer.name)
                return pb.PrepareStoreResponse(refusal=REFUSALS[answer])

    async def CompleteStore(
        self, request: pb.CompleteStoreRequest, context: grpc.aio.ServicerContext
    ) -> pb.CompleteStoreResponse:
        """Publish or discard."""
        content = content_of(request.content)
        now_ns = self._current(request)
        published = self._tiering.complete_store(
            request.owner_index, request.store_id, request.written, content, now_ns
        )
        outcome = "PUBLISHED" if published else "DISCARDED"
        self._metrics.stored(outcome)
        current_span().set_attribute(names.ATTR_DRAM_OUTCOME, outcome)
        return pb.CompleteStoreResponse(published=published)

    async def Evict(self, request: pb.EvictRequest, context: grpc.aio.ServicerContext) -> pb.EvictResponse:
        """Forget a user; needs no attachment."""
        entries = self._tiering.evict(user_key_of(request.tenant, request.user), self._clock())
        return pb.EvictResponse(entries=entries)

    async def Describe(
        self, request: pb.ExpanderServiceDescribeRequest, context: grpc.aio.ServicerContext
    ) -> pb.ExpanderServiceDescribeResponse:
        """Occupancy and counters."""
        seen, counters = self._tiering.occupancy(), self._tiering.counters
        block_bytes = self._segment.geometry.block_bytes
        return pb.ExpanderServiceDescribeResponse(
            boot_id=self._segment.boot_id,
            segment_bytes=self._segment.geometry.total_bytes,
            published_bytes=seen.published_blocks * block_bytes,
            staging_bytes=seen.staging_blocks * block_bytes,
            quarantined_bytes=seen.quarantined_blocks * block_bytes,
            entries=seen.entries,
            pins=seen.pins,
            owners=seen.owners,
            hits=counters["hit"],
            misses=counters["miss"] + counters["pin_refused"],
            evictions=counters["evicted"],
        )

    def _current(self, request: _Call) -> int:
        """Now, for a caller whose attachment is current in the same instant.

        Raises:
            Stale: another boot, or an index the caller no longer has.
        """
        now_ns = self._clock()
        if request.boot_id != self._segment.boot_id:
            raise Stale("another boot of the expander")
        if not self._tiering.is_attached(request.owner, request.owner_index, now_ns):
            raise Stale("the caller is not attached under this index")
        return now_ns


def key_of(key: pb.EntryKey, path: str = "key") -> PsiKey:
    """The key a request names; `path` is where in the request it is.

    Raises:
        InvalidRequest: by its field's name.
    """
    owner = user_key_of(key.tenant, key.user, f"{path}.")
    model = model_from_pb(key.model)
    for name in ("name", "version", "weights_digest", "dtype", "layout"):
        _check_text(f"{path}.model.{name}", getattr(model, name), MODEL_FIELD_CHARS_MAX)
    return PsiKey(owner, model.key, key.anchor)


def content_of(content: pb.EntryContent, path: str = "content") -> Content:
    """What a request says that an entry holds; `path` is where in the request it is said.

    Raises:
        InvalidRequest: by its field's name.
    """
    _check_size(content.length_bytes, content.token_count, content.chain_digest, f"{path}.")
    if len(content.content_digest) != DIGEST_BYTES:
        raise InvalidRequest(f"{path}.content_digest", f"must be {DIGEST_BYTES} bytes")
    trace = content.producer_traceparent
    if len(trace) > TRACEPARENT_CHARS_MAX:
        raise InvalidRequest(f"{path}.producer_traceparent", f"longer than {TRACEPARENT_CHARS_MAX} characters")
    return Content(content.token_count, content.chain_digest, content.length_bytes, content.content_digest, trace)


def content_to_pb(content: Content) -> pb.EntryContent:
    """Domain to protobuf."""
    return pb.EntryContent(
        token_count=content.tokens,
        chain_digest=content.chain_digest,
        length_bytes=content.length_bytes,
        content_digest=content.content_digest,
        producer_traceparent=content.producer_trace,
    )


def _check_size(length_bytes: int, tokens: int, chain_digest: bytes, prefix: str) -> None:
    if length_bytes == 0:
        raise InvalidRequest(f"{prefix}length_bytes", "must not be zero")
    if tokens == 0:
        raise InvalidRequest(f"{prefix}token_count", "must not be zero")
    if len(chain_digest) != CHAIN_DIGEST_BYTES:
        raise InvalidRequest(f"{prefix}chain_digest", f"must be {CHAIN_DIGEST_BYTES} bytes")


def _check_text(field: str, text: str, bytes_max: int) -> None:
    if not text:
        raise InvalidRequest(field, "must not be empty")
    if len(text.encode()) > bytes_max:
        raise InvalidRequest(field, f"longer than {bytes_max} bytes")
