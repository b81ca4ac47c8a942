"""The expander's unary RPCs, with a segment and an owner that holds its byte of the lock file."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from relaygr.domain.identity import ModelIdentity
from relaygr.rpc.identity import model_to_pb
from relaygr.rpc.server import RpcServer
from relaygr.segment import OwnedSegment, OwnerLock
from relaygr.telemetry import Telemetry
from relaygr.v1 import expander_pb2 as pb
from relaygr.v1.expander_pb2_grpc import add_ExpanderServiceServicer_to_server
from services.expander.adapters.segment import create_segment
from services.expander.adapters.sweeper import Sweeper
from services.expander.config import ExpanderConfig
from services.expander.core.tiering import Tiering
from services.expander.service import ExpanderService
from tests.fuzz import ground
from tests.fuzz.calls import Calls, Method
from tests.fuzz.subject import Subject

EXPANDER = "/relaygr.v1.ExpanderService"
BOOT_ID = "b" * 32
"""Always the same, so that kept requests stay of this boot."""
MODEL = ModelIdentity("m", "1", "ab" * 32, "float32", "paged128", 1024)
CHAIN = b"0123456789abcdef"
OWNER, OWNER_EPOCH = "r1", 1
SECONDS = 1_000_000_000


@dataclass
class World:
    """An expander's parts."""

    config: ExpanderConfig
    segment: OwnedSegment
    tiering: Tiering
    telemetry: Telemetry


@asynccontextmanager
async def world(directory: Path) -> AsyncIterator[World]:
    """An expander that is swept; ends with its invariants checked."""
    config = ExpanderConfig(
        segment_directory=str(directory),
        segment_bytes=2_000_000,
        block_bytes=4096,
        heartbeat_ms=40.0,
        owner_lapse_ms=100.0,
        probe_ms=20.0,
        pin_ms=200.0,
        store_ms=400.0,
        owners_max=64,
        entries_max=128,
        pins_max=64,
        tombstones_max=64,
        tombstone_s=0.05,
        admission="all",
    )
    segment = create_segment(config, BOOT_ID)
    tiering = Tiering(config.limits, segment.presence, segment)
    sweeper = Sweeper(tiering, segment.locks, config.probe_ms / 1000)
    sweeper.start()
    try:
        yield World(config, segment, tiering, ground.quiet())
    finally:
        await sweeper.close()
        tiering.check()
        segment.close()


def key(random: Random) -> pb.EntryKey:
    return pb.EntryKey(tenant="t", user=f"u{random.randrange(60)}", model=model_to_pb(MODEL), anchor=0)


class Fuzzed(Calls):
    """The eight verbs. Pins and stores that were granted are used in later requests."""

    def __init__(self, made: World) -> None:
        methods = {
            f"{EXPANDER}/Attach": Method(pb.AttachRequest, self.attach, 1),
            f"{EXPANDER}/Lookup": Method(pb.LookupRequest, self.lookup, 4),
            f"{EXPANDER}/PrepareLoad": Method(pb.PrepareLoadRequest, self.prepare_load, 2),
            f"{EXPANDER}/CompleteLoad": Method(pb.CompleteLoadRequest, self.complete_load, 4),
            f"{EXPANDER}/PrepareStore": Method(pb.PrepareStoreRequest, self.prepare_store, 4),
            f"{EXPANDER}/CompleteStore": Method(pb.CompleteStoreRequest, self.complete_store, 4),
            f"{EXPANDER}/Evict": Method(pb.EvictRequest, lambda random: pb.EvictRequest(tenant="t", user="gone"), 1),
            f"{EXPANDER}/Describe": Method(
                pb.ExpanderServiceDescribeRequest, lambda _: pb.ExpanderServiceDescribeRequest(), 0.3
            ),
        }
        super().__init__(methods, ground.KEY)
        self._made = made
        self._lock: OwnerLock | None = None
        self._index: int | None = None
        self._pins: deque[int] = deque(maxlen=64)
        self._stores: deque[tuple[int, bytes]] = deque(maxlen=64)

    def attached(self) -> dict[str, Any]:
        """The fields that say who calls; a heartbeat, too."""
        index = self._made.tiering.attach(OWNER, OWNER_EPOCH, time.monotonic_ns())
        if index != self._index and index is not None:
            self.let_go()
            self._lock = OwnerLock(self._made.segment.locks.path, index)
            self._index = index
        return {"boot_id": BOOT_ID, "owner": OWNER, "owner_index": index or 0}

    def let_go(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def attach(self, random: Random) -> pb.AttachRequest:
        self.attached()
        return pb.AttachRequest(owner=OWNER, owner_epoch=OWNER_EPOCH, known_boot_id=BOOT_ID)

    def lookup(self, random: Random) -> pb.LookupRequest:
        return pb.LookupRequest(key=key(random), prepare_load=random.random() < 0.7, **self.attached())

    def prepare_load(self, random: Random) -> pb.PrepareLoadRequest:
        return pb.PrepareLoadRequest(pin_id=self._pins[-1] if self._pins else 1, **self.attached())

    def complete_load(self, random: Random) -> pb.CompleteLoadRequest:
        if self._pins and random.random() < 0.7:
            return pb.CompleteLoadRequest(pin_id=self._pins.pop(), verified=True, **self.attached())
        return pb.CompleteLoadRequest(key=key(random), generation=3, verified=True, **self.attached())

    def prepare_store(self, random: Random) -> pb.PrepareStoreRequest:
        return pb.PrepareStoreRequest(
            key=key(random),
            length_bytes=random.choice((1, 4096, 9_000, 40_000)),
            token_count=random.randrange(1, 400),
            chain_digest=CHAIN,
            **self.attached(),
        )

    def complete_store(self, random: Random) -> pb.CompleteStoreRequest:
        store_id, asked = self._stores.pop() if self._stores else (1, b"")
        request = pb.PrepareStoreRequest.FromString(asked)
        content = pb.EntryContent(
            token_count=request.token_count or 5,
            chain_digest=CHAIN,
            length_bytes=request.length_bytes or 4096,
            content_digest=b"d" * 16,
            producer_traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01",
        )
        return pb.CompleteStoreRequest(store_id=store_id, written=True, content=content, **self.attached())

    def answered(self, path: str, request: bytes, response: Any) -> None:
        if isinstance(response, pb.LookupResponse) and response.found:
            self._pins.append(response.pin_id)
        if isinstance(response, pb.PrepareStoreResponse) and response.store_id:
            self._stores.append((response.store_id, request))

    async def settle(self) -> None:
        self._made.tiering.check()

    async def still_serves(self) -> str:
        # Strangers attach, too, and take all indexes there are; they lapse.
        async with asyncio.timeout(5):
            while not self.attached()["owner_index"] and not self._made.tiering.is_attached(  # noqa: ASYNC110
                OWNER, 0, time.monotonic_ns()
            ):
                await asyncio.sleep(0.05)
        return await super().still_serves()

    def sizes(self) -> dict[str, tuple[int, int]]:
        seen, limits = self._made.tiering.occupancy(), self._made.config.limits
        return {
            "entries": (seen.entries, limits.entries_max),
            "pins": (seen.pins, limits.pins_max),
            "owners": (seen.owners, limits.owners_max),
            "tombstones": (seen.tombstones, limits.tombstones_max),
            "staging_blocks": (seen.staging_blocks, limits.staging_blocks_max),
        }


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Subject]:
    async with world(directory) as made:
        service = ExpanderService(made.tiering, made.segment, made.telemetry, 40_000_000)
        server = RpcServer(service_name="expander", address="127.0.0.1:0", telemetry=made.telemetry)
        server.add(add_ExpanderServiceServicer_to_server, service, "relaygr.v1.ExpanderService")
        subject = Fuzzed(made)
        await subject.serve(server, made.telemetry)
        try:
            yield subject
        finally:
            await subject.close()
            await server.stop(0)
            subject.let_go()
