"""Productions: psi being computed, and what is kept at hand for it; lookups and copies are in dram_work.py.

Performs the residency machine's effects that take time, and reports each ending as an
event. A report says that nothing touches the pages any more; until it comes, the machine
keeps them.

Source: design, section 3 (ranker).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from opentelemetry.trace import Span, set_span_in_context

from relaygr.domain.cost import CostModel
from relaygr.domain.identity import PsiKey, UserKey
from relaygr.model.interface import PageView, RelayModel
from relaygr.runtime.logs import next_step
from relaygr.telemetry import Telemetry, context_of, names
from services.ranker.adapters.executor import Ending, Executor, Outcome
from services.ranker.core import effects as fx
from services.ranker.core import events as ev
from services.ranker.core.jobs import TELL_NS, production_job, production_job_id
from services.ranker.core.observed import Observed
from services.ranker.core.schedule import JobClass
from services.ranker.dram_work import DramWork, Feed
from services.ranker.metrics import RankerMetrics
from services.ranker.prefix import Prefix
from services.ranker.work import Chunk, produce

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Source:
    prefix: Prefix
    trace: str


@dataclass(slots=True)
class _Run:
    """A compute that is queued or under way."""

    effect: fx.StartCompute
    span: Span
    submitted_unix_ns: int
    submitted_ns: int
    chunks: list[Chunk] = field(default_factory=list)
    """Complete ones; grows on the device's thread."""
    told_unix_ns: int = 0
    told_tokens: int = 0

    def has_news(self, chunk: Chunk) -> bool:
        """Note a chunk; true when the machine should hear of it now. Of the last it hears with the end."""
        self.chunks.append(chunk)
        is_last = chunk.tokens >= self.effect.to_tokens
        if is_last or chunk.ended_unix_ns - max(self.told_unix_ns, self.chunks[0].begun_unix_ns) < TELL_NS:
            return False
        self.told_unix_ns, self.told_tokens = chunk.ended_unix_ns, chunk.tokens
        return True

    @property
    def untold_tokens(self) -> int:
        """How far complete chunks reach that the machine has not heard of, short of the whole; 0 when it has of all."""
        reached = self.chunks[-1].tokens if self.chunks else 0
        return reached if self.told_tokens < reached < self.effect.to_tokens else 0


class Productions:
    """Runs what the machine starts."""

    def __init__(
        self,
        *,
        model: RelayModel,
        arena: torch.Tensor,
        executor: Executor,
        dram_work: DramWork,
        cost: CostModel,
        chunk_tokens: int,
        telemetry: Telemetry,
        metrics: RankerMetrics,
        loop: asyncio.AbstractEventLoop,
        sources_max: int,
    ):
        """`sources_max` bounds the histories kept for work in flight, beside the one that is being asked."""
        self._model = model
        self._arena = arena
        self._executor = executor
        self.dram_work = dram_work
        self._cost = cost
        self._chunk_tokens = chunk_tokens
        self._telemetry = telemetry
        self._metrics = metrics
        self._loop = loop
        self._sources: OrderedDict[tuple[PsiKey, bytes], _Source] = OrderedDict()
        self._sources_max = sources_max
        self._coming_ns: dict[int, int] = {}
        """Of jobs that are still being looked up and will not be found: what the device will have to compute."""
        self._feed: Feed = lambda event: None
        self.observed = Observed()
        """What triggers are told of how it goes here."""

    def attach(self, feed: Feed) -> None:
        """Where endings are reported."""
        self._feed = feed
        self.dram_work.attach(feed)

    def offer(self, key: PsiKey, prefix: Prefix, trace: str) -> bool:
        """Keep a history at hand for a production that may start from it. False: it was already."""
        name = (key, prefix.chain.digest)
        is_new = name not in self._sources
        self._sources[name] = _Source(prefix, trace)
        self._sources.move_to_end(name)
        while len(self._sources) > self._sources_max + 1:
            self._sources.popitem(last=False)
        return is_new

    def withdraw(self, key: PsiKey, prefix: Prefix) -> None:
        """Nothing will start from a history that was offered."""
        self._sources.pop((key, prefix.chain.digest), None)

    @property
    def coming(self) -> tuple[int, int]:
        """Productions that the device has not been asked for yet, and their expected time, nanoseconds."""
        return len(self._coming_ns), sum(self._coming_ns.values())

    def perform(self, effect: fx.Effect) -> None:
        """Start what the machine asked for; endings come later."""
        match effect:
            case fx.StartLookup():
                self._look_up(effect)
            case fx.AbandonLookup(job_id):
                self.dram_work.abandon(job_id)
            case fx.StartReload():
                self.dram_work.reload(effect)
            case fx.GiveUpReload(job_id):
                self.dram_work.give_up(job_id)
            case fx.StartCompute():
                self._compute(effect)
            case fx.CancelProduction(job_id):
                self.dram_work.cancel(job_id)
                self._executor.cancel(production_job_id(job_id))
            case fx.PromoteProduction(job_id, deadline_ns, due_ns):
                self._executor.promote(production_job_id(job_id), JobClass.JOINED, deadline_ns, due_ns)
            case fx.DemoteProduction(job_id):
                self._executor.demote(production_job_id(job_id))
            case fx.StartSpill():
                self.dram_work.spill(effect)
            case _:
                raise AssertionError(f"not a production: {effect}")

    def forget(self, owner: UserKey, *, is_repeated: bool) -> asyncio.Task[tuple[int, bool]]:
        """Erase a user's histories here and psi in the DRAM tier: entries purged, and whether it confirmed."""
        for name in [name for name in self._sources if name[0].owner == owner]:
            del self._sources[name]
        return self.dram_work.forget(owner, is_repeated=is_repeated)

    async def close(self) -> None:
        """End what is under way."""
        await self.dram_work.close()

    def _report(self, event: ev.Event) -> None:
        self._loop.call_soon(self._feed, event)

    def _look_up(self, effect: fx.StartLookup) -> None:
        if not self.dram_work.may_find(effect.key):
            # Whoever asks for the load before the lookup has ended must not take this device for idle.
            self._coming_ns[effect.job_id] = self._cost.extend_ns(effect.chain.token_count, 0)
        source = self._sources.get((effect.key, effect.chain.digest))
        # Behind the report, which asks the device for it.
        self.dram_work.look_up(effect, source.trace if source else "", lambda: self._no_longer_coming(effect.job_id))

    def _no_longer_coming(self, job_id: int) -> None:
        self._coming_ns.pop(job_id, None)

    def _compute(self, effect: fx.StartCompute) -> None:
        source = self._sources.get((effect.key, effect.chain.digest))
        if source is None:
            self._report(ev.ProductionFailed(effect.job_id, "history no longer at hand"))
            return
        job = production_job(self._cost, effect)
        run = _Run(effect, self._start_span(effect, source), time.time_ns(), time.monotonic_ns())
        psi = PageView(self._arena, effect.page_ids, effect.from_tokens)
        work = produce(
            self._model,
            source.prefix,
            psi,
            effect.to_tokens,
            self._chunk_tokens,
            lambda chunk: self._chunk_ended(run, chunk),
        )
        if not self._executor.submit(job, work, lambda outcome: self._compute_ended(run, outcome)):
            run.span.end()
            self._report(ev.ProductionFailed(effect.job_id, "device queue full"))

    def _start_span(self, effect: fx.StartCompute, source: _Source) -> Span:
        span: Span = self._telemetry.tracer.start_span(names.SPAN_PRE_INFER_PRODUCE, context=context_of(source.trace))
        span.set_attribute(names.ATTR_PRE_INFER_TOKENS, effect.to_tokens)
        span.set_attribute(names.ATTR_PRE_INFER_FROM_TOKENS, effect.from_tokens)
        return span

    def _chunk_ended(self, run: _Run, chunk: Chunk) -> None:
        """On the device's thread."""
        if run.has_news(chunk):
            event = ev.ChunkEnded(run.effect.job_id, chunk.tokens)
            _ignore_closed(self._loop.call_soon_threadsafe, self._feed, event)

    def _child_span(self, run: _Run, name: str, begun_ns: int, ended_ns: int, attributes: dict[str, int]) -> None:
        context = set_span_in_context(run.span)
        span = self._telemetry.tracer.start_span(name, context=context, start_time=begun_ns, attributes=attributes)
        span.end(ended_ns)

    def _compute_ended(self, run: _Run, outcome: Outcome) -> None:
        queued_until_ns = run.submitted_unix_ns + outcome.queued_ns
        self._child_span(run, names.SPAN_PRE_INFER_QUEUE, run.submitted_unix_ns, queued_until_ns, {})
        for chunk in run.chunks:
            attributes = {names.ATTR_PRE_INFER_TOKENS: chunk.tokens}
            self._child_span(run, names.SPAN_PRE_INFER_CHUNK, chunk.begun_unix_ns, chunk.ended_unix_ns, attributes)
        if outcome.ending is Ending.DONE:
            run.span.end()
            self._sources.pop((run.effect.key, run.effect.chain.digest), None)
            # All that was not computing: also the time it was set aside for what is more urgent.
            self.observed.produced(time.monotonic_ns() - run.submitted_ns - outcome.compute_ns)
            elapsed_ns = outcome.queued_ns + outcome.compute_ns
            self._metrics.produced("compute", elapsed_ns, set_span_in_context(run.span))
            self._feed(ev.ChunkEnded(run.effect.job_id, run.effect.to_tokens))
            return
        if run.untold_tokens:
            # What was computed before it was ended is psi all the same.
            self._feed(ev.ChunkEnded(run.effect.job_id, run.untold_tokens))
        reason = f"{outcome.ending.value}: {outcome.value}" if outcome.value else outcome.ending.value
        run.span.set_attribute(names.ATTR_PRE_INFER_REASON, reason)
        run.span.end()
        if outcome.ending is Ending.FAILED:
            step = next_step("nothing now: its rank is inferred in full; report it with the traceback")
            LOG.error("production failed: %s", reason, exc_info=outcome.value, extra=step)
        self._feed(ev.ProductionFailed(run.effect.job_id, reason))


def _ignore_closed(call: Callable[..., Any], *arguments: Any) -> None:
    # The loop is closed only when the process is on its way out.
    with contextlib.suppress(RuntimeError):
        call(*arguments)
