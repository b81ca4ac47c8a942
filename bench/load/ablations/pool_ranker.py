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

from bench.load.ablations.pool_tier import PoolFound, PoolTier
from relaygr.behaviours.columns import chain_of
from relaygr.domain.chain import PAGE_TOKENS
from relaygr.domain.identity import PsiKey
from relaygr.rpc.identity import model_from_pb
from relaygr.telemetry import current_traceparent
from relaygr.v1 import common_pb2
from services.ranker.__main__ import main
from services.ranker.adapters.dram import DramTier
from services.ranker.assembly import Makers
from services.ranker.core import events as ev
from services.ranker.core.effects import Accept, Effect
from services.ranker.core.entries import Entry
from services.ranker.core.lifecycle import Cause, PsiState
from services.ranker.core.residency import Residency
from services.ranker.core.tickets import Closing
from services.ranker.engine import Engine, RankResult, RankWork
from services.ranker.prefix import Prefix
from services.ranker.service import RankerService


class PassingResidency(Residency):
    """Psi pass through: stored as soon as they are complete, dropped as soon as nothing uses them."""

    def handle(self, event: ev.Event, now_ns: int) -> list[Effect]:
        """Take one event, and let go of what is done."""
        if isinstance(event, ev.LookupEnded):
            self._spare_reload(event, now_ns)
        effects = self._books.take_effects() + super().handle(event, now_ns)
        if isinstance(event, ev.SpillEnded):
            entry = self._books.entries.by_id.get(event.entry_id)
            if entry is not None and entry.state == PsiState.RESIDENT:
                self._end_tickets(entry, now_ns)
        return effects + self._pass_on(now_ns)

    def expire(self, now_ns: int) -> list[Effect]:
        """Do what is due, and let go of what is done."""
        return super().expire(now_ns) + self._pass_on(now_ns)

    def is_here(self, key: PsiKey) -> bool:
        """True while psi of a key is being produced, stored or read."""
        return key in self._books.entries.by_key

    def _spare_reload(self, event: ev.LookupEnded, now_ns: int) -> None:
        """The pool lacks less than a page of what a pre-infer would produce, and no rank waits: nothing is to do."""
        entry = self._books.entries.by_job.get(event.job_id)
        if entry is None or entry.state != PsiState.LOOKING_UP or entry.joiners or not event.tokens:
            return
        missing_tokens = entry.goal_tokens - event.tokens
        if 0 <= missing_tokens < PAGE_TOKENS and entry.chain.digest_at(event.tokens) == event.digest:
            self._end_tickets(entry, now_ns, tokens=entry.goal_tokens)

    def _pass_on(self, now_ns: int) -> list[Effect]:
        for entry in list(self._books.entries.by_key.values()):
            if entry.state != PsiState.RESIDENT or entry.is_pending or not entry.tickets:
                continue
            if entry.stored_tokens >= entry.tokens:
                self._end_tickets(entry, now_ns)
            elif self._books.is_dram_attached and entry.entry_id not in self._books.spill_queue:
                entry.is_spill_due = True
                self._attend(entry, Cause.UNWANTED, now_ns)
                if entry.state == PsiState.RESIDENT and entry.entry_id not in self._books.spill_queue:
                    self._end_tickets(entry, now_ns)  # Too little is new for a copy.
        idle = [self._books.entries.by_id[entry_id] for entry_id in self._books.policy.victims()]
        for entry in idle:
            if entry.entry_id not in self._books.spill_queue:
                self._holding.drop(entry, Cause.EVICTED)
        return self._books.take_effects()

    def _end_tickets(self, entry: Entry, now_ns: int, tokens: int | None = None) -> None:
        """Their psi is where it belongs: what they held here is done."""
        reached = entry.tokens if tokens is None else tokens
        for ticket_id in list(entry.tickets):
            if self._books.tickets.open[ticket_id].need_tokens <= reached:
                self._close(ticket_id, Closing.CONSUMED, now_ns)


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
