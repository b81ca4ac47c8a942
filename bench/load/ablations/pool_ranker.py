"""Starts a ranker whose psi live in a remote pool: `python -m bench.load.ablations.pool_ranker`.

Settings come from RELAYGR_RANKER_*; `expander` names the pool. A pre-infer computes psi, or
what is new of it, and sends it to the pool at once. A rank asks the pool, fetches psi into the
device, waits for it and ranks on it, on whatever instance it came to; when the pool has
nothing, it is inferred in full. Nothing stays on the device: its memory serves the work under
way. A rank that comes while psi is still being produced or stored here joins it.

A ticket's instance means nothing here, only its model does.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import replace
from typing import Any, cast

# As services/ranker/__main__.py: torch_npu breaks `import torch` where its driver is missing.
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

from bench.load.ablations.passing import PassingResidency
from bench.load.ablations.pool_tier import PoolFound, PoolTier
from relaygr.behaviours.columns import chain_of
from relaygr.domain.identity import PsiKey
from relaygr.rpc.identity import model_from_pb
from relaygr.telemetry import current_traceparent
from relaygr.v1 import common_pb2
from services.ranker.__main__ import main
from services.ranker.adapters.dram import DramTier
from services.ranker.assembly import Makers
from services.ranker.core.effects import Accept
from services.ranker.engine import Engine, RankResult, RankWork
from services.ranker.prefix import Prefix
from services.ranker.service import RankerService


class FetchingEngine(Engine):
    """Brings psi from the pool before it ranks."""

    def __init__(self, *, tier: PoolTier, **parts: Any):
        super().__init__(**parts)
        self._tier = tier

    async def rank(self, work: RankWork) -> RankResult:
        """Fetch, wait, rank; in full when there is nothing to fetch."""
        if work.bypass_psi or self._is_here(work.key):
            return await super().rank(work)
        found = await self._tier.find(work.key)
        prefix = _part_of(work.prefix, found) if found is not None else None
        if prefix is None or self._is_here(work.key):
            return await super().rank(work)
        # A ticket of this instance and this rank alone: it holds the pages while psi is fetched and read.
        ticket_id = f"fetch-{uuid.uuid4().hex}"
        answer = self.pre_infer(ticket_id, work.key, prefix, work.deadline_ns, current_traceparent())
        if not isinstance(answer, Accept):
            return await super().rank(work)
        try:
            return await super().rank(replace(work, ticket_id=ticket_id))
        finally:
            self.release(ticket_id)

    def _is_here(self, key: PsiKey) -> bool:
        residency = self.residency
        assert isinstance(residency, PassingResidency)
        return residency.is_here(key)


class AnyInstanceService(RankerService):
    """Takes tickets of all instances of its model."""

    def _is_foreign(self, claims: common_pb2.TicketClaims) -> bool:
        return model_from_pb(claims.model) != self._instance.record.model


def _part_of(prefix: Prefix, found: PoolFound) -> Prefix | None:
    """The part of a history that the pool has; None when it has another one, or a longer one."""
    if found.token_count > prefix.tokens or prefix.chain.digest_at(found.token_count) != found.chain_digest:
        return None
    if found.token_count == prefix.tokens:
        return prefix
    behaviours = prefix.behaviours.slice(0, found.token_count - 1)
    return replace(prefix, behaviours=behaviours, chain=chain_of(prefix.profile, behaviours))


def makers() -> Makers:
    """The parts in which this ranker differs."""
    tiers: list[PoolTier] = []

    def dram(address: str, *_: object) -> DramTier:
        tiers.append(PoolTier(address))
        # It has what the ranker uses of a tier, and nothing of the tier's own parts.
        return cast(DramTier, tiers[0])

    def engine(**parts: Any) -> Engine:
        assert tiers, "RELAYGR_RANKER_EXPANDER must name the pool"
        return FetchingEngine(tier=tiers[0], **parts)

    return Makers(dram=dram, residency=PassingResidency, engine=engine, service=AnyInstanceService)


if __name__ == "__main__":
    main(makers())
