"""The engine: performs what the residency machine decides, on the device and the DRAM tier.

One event loop owns the machine; one thread owns the device (executor.py). Every effect is
performed at once and every ending is fed back as an event on a later turn of the loop, so
the machine is never re-entered. A lease ends when the compute that reads it has ended,
also when its caller is gone.

Source: design, section 3 (ranker), invariants I2, I6, I7.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, replace

import torch

from relaygr.domain.cost import CostModel
from relaygr.domain.identity import PsiKey, UserKey
from relaygr.errors import DeadlineTooShort, Refused, RelayError
from relaygr.model.interface import PageView, RelayModel
from relaygr.runtime.driver import Driver
from relaygr.runtime.logs import next_step
from services.ranker.adapters.executor import Ending, Executor, Outcome
from services.ranker.core import effects as fx
from services.ranker.core import events as ev
from services.ranker.core.jobs import placed_by_ns, rank_job
from services.ranker.core.observed import Observed
from services.ranker.core.residency import Residency
from services.ranker.core.schedule import Queues
from services.ranker.prefix import Prefix
from services.ranker.production import Productions
from services.ranker.work import Suffix, rank

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RankWork:
    """One rank as the engine takes it."""

    key: PsiKey
    prefix: Prefix
    suffix: Suffix
    ticket_id: str | None
    deadline_ns: int
    due_ns: int | None = None
    """By when its answer would be within the ranking budget."""
    bypass_psi: bool = False


@dataclass(frozen=True, slots=True)
class RankResult:
    """Scores and how they came about."""

    logits_CK: torch.Tensor
    placement: fx.RankOnPsi | fx.RankInFull
    queue_ns: int
    compute_ns: int
    inferred_tokens: int


class Engine:
    """Takes pre-infers and ranks; owns the machine."""

    def __init__(
        self,
        *,
        model: RelayModel,
        arena: torch.Tensor,
        residency: Residency,
        executor: Executor,
        productions: Productions,
        cost: CostModel,
        loop: asyncio.AbstractEventLoop,
    ):
        """Wire the parts; nothing starts before the first event."""
        self._model = model
        self._arena = arena
        self._residency = residency
        self._executor = executor
        self._productions = productions
        self._cost = cost
        self._loop = loop
        self._driver: Driver = Driver(residency, self._perform, time.monotonic_ns, loop)
        self._answers: dict[str, fx.Accept | fx.Decline] = {}
        self._placements: dict[int, asyncio.Future[fx.RankOnPsi | fx.RankInFull]] = {}
        self._rank_ids = 0
        self._is_dram_attached = False
        self._forgets: list[asyncio.Future[tuple[int, bool]]] | None = None
        productions.attach(self.feed)

    @property
    def residency(self) -> Residency:
        """The machine, for description and metrics."""
        return self._residency

    def feed(self, event: ev.Event) -> None:
        """Hand an event to the machine; not from within a perform."""
        self._driver.feed(event)

    def load(self) -> Queues:
        """The device's queues, with what it is about to be asked for."""
        queues, (jobs, coming_ns) = self._executor.load(), self._productions.coming
        if not jobs:
            return queues
        pre_infer_jobs, backlog_ns = queues.pre_infer_jobs + jobs, queues.backlog_ns + coming_ns
        return replace(queues, pre_infer_jobs=pre_infer_jobs, backlog_ns=backlog_ns)

    @property
    def observed(self) -> Observed:
        """What triggers are told of how it goes here."""
        return self._productions.observed

    @property
    def is_dram_attached(self) -> bool:
        """Whether the DRAM tier answers."""
        return self._is_dram_attached

    @property
    def element_bytes(self) -> int:
        """Bytes of one K/V element."""
        return self._arena.element_size()

    def dram_attached(self, is_attached: bool) -> None:
        """The DRAM tier came or went."""
        self._is_dram_attached = is_attached
        self.feed(ev.DramAttached(is_attached))

    def close(self) -> None:
        """Stop the timer and the device thread."""
        self._driver.close()
        self._executor.close()

    def pre_infer(
        self, ticket_id: str, key: PsiKey, prefix: Prefix, window_end_ns: int, trace: str
    ) -> fx.Accept | fx.Decline:
        """Ask for psi of a prefix; the answer is immediate, the work runs on."""
        is_new = self._productions.offer(key, prefix, trace)
        self.feed(ev.PreInferAsked(ticket_id, key, prefix.chain, window_end_ns, trace))
        answer = self._answers.pop(ticket_id)
        if is_new and isinstance(answer, fx.Decline):
            self._productions.withdraw(key, prefix)
        return answer

    def release(self, ticket_id: str) -> bool:
        """End a ticket's hold; False when it was not open here."""
        before = self._residency.snapshot().open_tickets
        self.feed(ev.TicketReleased(ticket_id))
        return self._residency.snapshot().open_tickets < before

    async def forget(self, owner: UserKey) -> tuple[int, int, bool]:
        """Purge a user: device entries, DRAM entries, and whether the DRAM tier confirmed."""
        before = self._residency.snapshot().resident_entries
        confirmations = self._forgets = []
        try:
            self.feed(ev.UserForgotten(owner))
        finally:
            self._forgets = None
        device_entries = before - self._residency.snapshot().resident_entries
        dram_entries, reached = 0, True
        for confirmation in confirmations:
            # It goes on when the caller leaves.
            entries, ok = await asyncio.shield(confirmation)
            dram_entries += entries
            reached = reached and ok
        return max(0, device_entries), dram_entries, reached

    async def rank(self, work: RankWork) -> RankResult:
        """Score the candidates, on psi when there is one.

        Raises:
            Refused: the queue is full.
            DeadlineTooShort: the deadline passed before the device was free.
        """
        if work.bypass_psi:
            return await self._rank_in_full(work, fx.FallbackReason.BYPASSED)
        rank_id = self._next_rank_id()
        placement = await self._place(rank_id, work)
        if isinstance(placement, fx.RankInFull):
            return await self._compute(rank_id, work, placement, None, is_leased=True)
        psi = PageView(self._arena, placement.page_ids, placement.tokens)
        try:
            return await self._compute(rank_id, work, placement, psi, is_leased=True)
        except RelayError:
            raise
        except Exception:
            # Psi may cost speed when it fails, never the answer.
            step = next_step("nothing for this request: it is inferred in full; report it with the traceback")
            LOG.exception("ranking on psi failed", extra=step)
            return await self._rank_in_full(work, fx.FallbackReason.PRODUCTION_FAILED)

    async def _rank_in_full(self, work: RankWork, reason: fx.FallbackReason) -> RankResult:
        rank_id = self._next_rank_id()
        return await self._compute(rank_id, work, fx.RankInFull(rank_id, reason), None, is_leased=False)

    def _next_rank_id(self) -> int:
        self._rank_ids += 1
        return self._rank_ids

    async def _place(self, rank_id: int, work: RankWork) -> fx.RankOnPsi | fx.RankInFull:
        placed: asyncio.Future[fx.RankOnPsi | fx.RankInFull] = self._loop.create_future()
        self._placements[rank_id] = placed
        suffix_tokens = work.suffix.causal_tokens + len(work.suffix.candidates)
        by_ns = placed_by_ns(work.deadline_ns, time.monotonic_ns())
        asked = ev.RankAsked(rank_id, work.key, work.prefix.chain, work.ticket_id, by_ns, suffix_tokens, work.due_ns)
        try:
            self.feed(asked)
            if placed.done():
                return placed.result()
            async with asyncio.timeout(max(0.0, (work.deadline_ns - time.monotonic_ns()) / 1e9)):
                return await placed
        except TimeoutError:
            self.feed(ev.RankAbandoned(rank_id))
            raise DeadlineTooShort("psi was still in production at the deadline") from None
        except BaseException:
            self.feed(ev.RankAbandoned(rank_id))
            raise
        finally:
            self._placements.pop(rank_id, None)

    async def _compute(
        self,
        rank_id: int,
        work: RankWork,
        placement: fx.RankOnPsi | fx.RankInFull,
        psi: PageView | None,
        *,
        is_leased: bool,
    ) -> RankResult:
        covered = psi.token_count if psi is not None else 0
        rest = work.prefix.tokens - covered + work.suffix.causal_tokens
        candidates = len(work.suffix.candidates)
        job = rank_job(self._cost, rank_id, candidates, rest, covered, work.deadline_ns, work.due_ns)
        ended: asyncio.Future[Outcome] = self._loop.create_future()

        def on_end(outcome: Outcome) -> None:
            if not ended.done():
                ended.set_result(outcome)
            if is_leased:
                # Behind the answer, which waits for nothing that the lease's end brings about.
                self._loop.call_soon(self.feed, ev.RankEnded(rank_id))

        if not self._executor.submit(job, rank(self._model, work.prefix, work.suffix, psi), on_end):
            if is_leased:
                self.feed(ev.RankAbandoned(rank_id))
            if work.deadline_ns <= time.monotonic_ns():
                raise DeadlineTooShort("the deadline passed before the device was asked")
            raise Refused("the device queue is full; retry later or lower the rate")
        try:
            async with asyncio.timeout(max(0.0, (work.deadline_ns - time.monotonic_ns()) / 1e9)):
                outcome = await ended
        except TimeoutError:
            self._executor.cancel(job.job_id)
            raise DeadlineTooShort("the device was not done before the deadline") from None
        except asyncio.CancelledError:
            self._executor.cancel(job.job_id)
            raise
        logits_CK = _value_of(outcome)
        return RankResult(logits_CK, placement, outcome.queued_ns, outcome.compute_ns, rest + candidates)

    def _perform(self, effect: fx.Effect) -> None:
        match effect:
            case fx.Accept(ticket_id) | fx.Decline(ticket_id):
                self._answers[ticket_id] = effect
            case fx.RankOnPsi(rank_id) | fx.RankInFull(rank_id):
                self._settle(rank_id, effect)
            case fx.ForgetDram(owner):
                # The machine repeats it by itself: for a tier that came back, for a copy that ended late.
                erasure = self._productions.forget(owner, is_repeated=self._forgets is None)
                if self._forgets is not None:
                    self._forgets.append(erasure)
            case _:
                self._productions.perform(effect)

    def _settle(self, rank_id: int, placement: fx.RankOnPsi | fx.RankInFull) -> None:
        placed = self._placements.get(rank_id)
        if placed is None or placed.done():
            # Its caller left in the same turn; give the lease back.
            self._loop.call_soon(self.feed, ev.RankAbandoned(rank_id))
            return
        placed.set_result(placement)


def _value_of(outcome: Outcome) -> torch.Tensor:
    match outcome.ending:
        case Ending.DONE:
            logits_CK: torch.Tensor = outcome.value
            return logits_CK
        case Ending.LATE:
            raise DeadlineTooShort("the device was not free before the deadline")
        case Ending.CANCELLED:
            raise Refused("the instance is stopping")
        case Ending.FAILED:
            raise outcome.value
