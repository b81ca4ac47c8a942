"""An expander that serves rankers of other hosts as well, and such rankers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np

from relaygr.rpc.identity import model_to_pb
from relaygr.segment import ContentDigest, identity_bytes
from relaygr.v1 import expander_pb2, transfer_pb2
from relaygr.v1.transfer_pb2_grpc import TransferServiceStub, add_TransferServiceServicer_to_server
from services.expander.adapters.local_owner import LocalOwner
from services.expander.metrics import TransferMetrics
from services.expander.transfer import TransferService
from services.ranker.adapters.dram_remote import RemoteDramTier
from tests.contract.expander_world import CHAIN, MODEL, World, key_of, until

LONG_BYTES = 24_000_000
"""Far more than a connection takes without being read."""
LONG: dict[str, Any] = {"segment_bytes": 80_000_000, "block_bytes": 65_536, "staging_share": 0.5}
"""Settings of an expander with room for entries so long."""


class RemoteWorld(World):
    """Rankers here share no memory with the expander, whatever the machine could do."""

    def add_services(self) -> None:
        self.owner = LocalOwner(self.tiering, self.segment, self.config.heartbeat_ms / 1000)
        metrics = TransferMetrics(self.telemetry)
        self.transfer = TransferService(self.tiering, self.segment, self.owner, self.config.transfer_limits, metrics)
        self.server.add(add_TransferServiceServicer_to_server, self.transfer, "relaygr.v1.TransferService")

    async def stop(self) -> None:
        await self.server.stop(0)
        await self.owner.close()
        await super().stop()

    @property
    def streams(self) -> TransferServiceStub:
        return TransferServiceStub(self.channels.get(self.address))

    @property
    def is_at_rest(self) -> bool:
        """No stream is open, and none has left anything behind."""
        seen = self.tiering.occupancy()
        left = (seen.pins, seen.staging_blocks, seen.quarantined_blocks, seen.doomed_blocks)
        return not any(left) and not self.transfer._open.total() and not self.transfer._storing

    async def remote(self, **settings: Any) -> RemoteDramTier:
        settings = {"lookup_timeout_s": 2.0} | settings
        tier = RemoteDramTier(self.address, self.channels, "elsewhere", 1, MODEL, **settings)
        self._rankers.append(tier)  # type: ignore[arg-type]
        tier.start()
        await until(lambda: tier.is_attached)
        return tier


@asynccontextmanager
async def remote_world(directory: Path, **settings: Any) -> AsyncIterator[RemoteWorld]:
    world = RemoteWorld(directory, **settings)
    await world.start()
    try:
        yield world
    finally:
        await world.close()


def long_pages(seed: int = 1) -> list[np.ndarray]:
    return [np.random.default_rng(seed).integers(0, 256, LONG_BYTES, dtype=np.uint8)]


def key_pb(user: str = "u") -> expander_pb2.EntryKey:
    return expander_pb2.EntryKey(tenant="t", user=user, model=model_to_pb(MODEL))


def begin_of(data: bytes, **changes: Any) -> transfer_pb2.StoreRequest:
    """The first message of an honest store of these bytes, but for the changes."""
    digest = ContentDigest(identity_bytes(key_of("u"), CHAIN), 300, len(data))
    digest.update(np.frombuffer(data, dtype=np.uint8))
    content: dict[str, Any] = {
        "token_count": 300,
        "chain_digest": CHAIN,
        "length_bytes": len(data),
        "content_digest": digest.digest(),
    }
    return transfer_pb2.StoreRequest(
        begin=transfer_pb2.StoreBegin(key=key_pb(), content=expander_pb2.EntryContent(**(content | changes)))
    )


def chunk_of(data: bytes, offset_bytes: int = 0) -> transfer_pb2.StoreRequest:
    return transfer_pb2.StoreRequest(chunk=transfer_pb2.Chunk(offset_bytes=offset_bytes, data=data))


FIND = transfer_pb2.FetchRequest(find=key_pb())
TAKE = transfer_pb2.FetchRequest(take=transfer_pb2.FetchTake())
FINISH = transfer_pb2.FetchRequest(finish=transfer_pb2.FetchFinish())
