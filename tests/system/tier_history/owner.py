"""An ordinary owner of the expander, by bare calls: it pins entries to learn where they lie.

What is pinned is neither evicted nor reused, so that whoever then damages the blocks damages this entry
and no other.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from relaygr.domain.identity import ModelIdentity, PsiKey
from relaygr.rpc.identity import model_to_pb
from relaygr.v1 import expander_pb2 as pb
from relaygr.v1.expander_pb2_grpc import ExpanderServiceStub
from tests.system.tier_history.damage import RawSegment, Target

CALL_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Pinned:
    """An entry that is held until `let_go`."""

    pin_id: int
    target: Target
    segment: RawSegment
    token_count: int


class PinningOwner:
    """Stays attached by heartbeats while it is entered; a new boot is mapped when it is seen."""

    def __init__(self, address: str, model: ModelIdentity, name: str = "injector"):
        self._channel = grpc.aio.insecure_channel(
            address, options=[("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
        )
        self._stub = ExpanderServiceStub(self._channel)
        self._model = model_to_pb(model)
        self._name = name
        self._index = 0
        self._beating: asyncio.Task[None] | None = None
        self.segment: RawSegment | None = None

    async def __aenter__(self) -> PinningOwner:
        await self.attach()
        self._beating = asyncio.create_task(self._beat())
        return self

    async def __aexit__(self, *_error: object) -> None:
        assert self._beating is not None
        self._beating.cancel()
        await asyncio.gather(self._beating, return_exceptions=True)
        await self._channel.close()

    async def attach(self) -> float:
        """Join or renew; seconds to the next time."""
        request = pb.AttachRequest(owner=self._name, owner_epoch=1)
        reply = await self._stub.Attach(request, timeout=CALL_TIMEOUT_S, wait_for_ready=True)
        if self.segment is None or self.segment.boot_id != reply.boot_id:
            self.segment = RawSegment(Path(reply.segment_path))
        self._index = reply.owner_index
        return float(reply.heartbeat_ns / 1e9)

    async def pin(self, key: PsiKey) -> Pinned | None:
        """The key's entry, or None when there is none or the tier does not answer."""
        segment = self.segment
        assert segment is not None
        named = pb.EntryKey(tenant=key.owner.tenant, user=key.owner.user, model=self._model, anchor=key.anchor)
        try:
            found = await self._stub.Lookup(
                pb.LookupRequest(key=named, **self._caller(segment)), timeout=CALL_TIMEOUT_S
            )
            if not found.found:
                return None
            request = pb.PrepareLoadRequest(pin_id=found.pin_id, **self._caller(segment))
            grant = await self._stub.PrepareLoad(request, timeout=CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError:
            return None
        if not grant.granted:
            return None
        target = Target(grant.generation, tuple(grant.blocks), grant.content.length_bytes)
        return Pinned(found.pin_id, target, segment, grant.content.token_count)

    async def let_go(self, pinned: Pinned) -> bool:
        """End a pin without a word about the bytes; True when it had held until now."""
        request = pb.CompleteLoadRequest(pin_id=pinned.pin_id, verified=True, **self._caller(pinned.segment))
        try:
            reply = await self._stub.CompleteLoad(request, timeout=CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError:
            return False
        return bool(reply.held)

    async def describe(self) -> pb.ExpanderServiceDescribeResponse:
        """What the expander says of itself."""
        return await self._stub.Describe(pb.ExpanderServiceDescribeRequest(), timeout=CALL_TIMEOUT_S)

    def _caller(self, segment: RawSegment) -> dict[str, Any]:
        return {"boot_id": segment.boot_id, "owner": self._name, "owner_index": self._index}

    async def _beat(self) -> None:
        while True:
            pause_s = 0.05
            with contextlib.suppress(grpc.aio.AioRpcError):
                pause_s = await self.attach()
            await asyncio.sleep(pause_s)
