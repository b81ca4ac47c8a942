"""Work between device and DRAM tier: lookups, reloads, spills and erasures, each a task that reports its end.

A report says that nothing touches the pages any more; until it comes, the machine keeps them. A lookup or reload that
is given up reports at once, or as soon as its copy has stopped; what it had pinned is let go.

Source: design, section 3 (ranker, expander), invariants I2, I7.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from relaygr.domain.chain import PAGE_TOKENS
from relaygr.domain.identity import PsiKey, UserKey
from relaygr.errors import Refused
from relaygr.runtime.logs import next_step
from relaygr.telemetry import Telemetry, context_of, link_of, names
from services.ranker.adapters.device.copies import PageCopies
from services.ranker.adapters.dram import DramTier
from services.ranker.adapters.dram_format import PageFormat
from services.ranker.adapters.dram_found import Found
from services.ranker.core import effects as fx
from services.ranker.core import events as ev
from services.ranker.metrics import RankerMetrics

Feed = Callable[[ev.Event], None]

LOG = logging.getLogger(__name__)

STAGING_STEP = "nothing if it is rare: psi is computed instead; else lower RELAYGR_RANKER_SPILLS_MAX"
FINITE_STEP = next_step("see why the model's K/V overflow; its scores cannot be right either")
GIVEN_UP = "given up"
REPETITIONS_MAX = 8
"""Users erased at once from a DRAM tier that came back; more would keep it from answering in time."""


@dataclass(slots=True)
class _Fetch:
    """A job of the machine, from its lookup to the begin of its reload."""

    trace: str
    is_cancelled: bool = False
    found: Found | None = None


class DramWork:
    """Runs it. Belongs to one event loop; does nothing where there is no tier."""

    def __init__(
        self,
        dram: DramTier | None,
        page_format: PageFormat,
        copies: PageCopies,
        telemetry: Telemetry,
        metrics: RankerMetrics,
        loop: asyncio.AbstractEventLoop,
    ):
        self._dram = dram
        self._format = page_format
        self._stored_model_key = page_format.identity.key
        self._copies = copies
        self._telemetry = telemetry
        self._metrics = metrics
        self._loop = loop
        self._repetitions = asyncio.Semaphore(REPETITIONS_MAX)
        self._jobs: dict[int, _Fetch] = {}
        self._fetches: dict[int, asyncio.Task[Any]] = {}
        """The lookup or reload of a job, while it is under way."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._feed: Feed = lambda event: None

    def attach(self, feed: Feed) -> None:
        """Where endings are reported."""
        self._feed = feed

    def may_find(self, key: PsiKey) -> bool:
        """False when a lookup would find nothing."""
        return self._dram is not None and self._dram.may_hold(self._stored(key))

    def look_up(self, effect: fx.StartLookup, trace: str, ended: Callable[[], None]) -> None:
        """Ask for psi; `ended` is called behind the report."""
        self._fetch(effect.job_id, self._lookup(effect, trace, ended))

    def reload(self, effect: fx.StartReload) -> None:
        """Copy what the lookup of the same job found."""
        self._fetch(effect.job_id, self._reload(effect))

    def spill(self, effect: fx.StartSpill) -> None:
        """Copy psi out."""
        self._spawn(self._spill(effect))

    def abandon(self, job_id: int) -> None:
        """Let go of what a lookup found."""
        job = self._jobs.pop(job_id, None)
        if job is not None and job.found is not None:
            self._unpin(job.found)

    def cancel(self, job_id: int) -> None:
        """A job is not wanted any more."""
        job = self._jobs.get(job_id)
        if job is not None:
            job.is_cancelled = True
        self.give_up(job_id)

    def give_up(self, job_id: int) -> None:
        """End a lookup or reload; it reports that nothing was found, or that the copy failed."""
        task = self._fetches.get(job_id)
        if task is not None:
            # Behind its first step: a task that never began would report nothing.
            self._loop.call_soon(task.cancel)

    def forget(self, owner: UserKey, *, is_repeated: bool) -> asyncio.Task[tuple[int, bool]]:
        """Erase a user: entries purged, and whether the tier confirmed it.

        Repetitions, for which nobody waits, go a few at a time.
        """
        return self._spawn(self._forget_again(owner) if is_repeated else self._forget(owner))

    async def close(self) -> None:
        """End what is under way."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _fetch(self, job_id: int, coroutine: Any) -> None:
        """Run a job's lookup or reload, which `give_up` may end."""
        task = self._fetches[job_id] = self._spawn(coroutine)
        task.add_done_callback(lambda task: self._fetched(job_id, task))

    def _fetched(self, job_id: int, task: asyncio.Task[Any]) -> None:
        if self._fetches.get(job_id) is task:
            del self._fetches[job_id]

    async def _lookup(self, effect: fx.StartLookup, trace: str, ended: Callable[[], None]) -> None:
        job = self._jobs[effect.job_id] = _Fetch(trace)
        tokens, digest = 0, b""
        with self._telemetry.span(names.SPAN_PRE_INFER_LOOKUP, parent=context_of(job.trace)) as span:
            try:
                job.found = await self._find(effect.key)
                if job.found is not None:
                    tokens, digest = job.found.token_count, job.found.chain_digest
                span.set_attribute(names.ATTR_PRE_INFER_TOKENS, tokens)
            except asyncio.CancelledError:
                span.set_attribute(names.ATTR_PRE_INFER_REASON, GIVEN_UP)
            finally:
                self._end_if_idle(effect.job_id, tokens)
                self._report(ev.LookupEnded(effect.job_id, tokens, digest))
                self._soon(ended)

    async def _find(self, key: PsiKey) -> Found | None:
        """A lookup. When it is given up, a pin that it gets after all is let go."""
        if self._dram is None or not self.may_find(key):
            return None
        asked = self._spawn(self._dram.lookup(self._stored(key)))
        try:
            return await asyncio.shield(asked)
        except asyncio.CancelledError:
            asked.add_done_callback(self._let_go)
            raise

    def _let_go(self, asked: asyncio.Task[Found | None]) -> None:
        found = None if asked.cancelled() or asked.exception() else asked.result()
        if found is not None:
            self._unpin(found)

    def _unpin(self, found: Found) -> None:
        """End a pin that no load has ended."""
        if self._dram is not None and not found.is_spent:
            self._spawn(self._dram.abandon(found))

    def _end_if_idle(self, job_id: int, tokens: int) -> None:
        job = self._jobs.get(job_id)
        if job is not None and job.is_cancelled:
            self.abandon(job_id)
        elif not tokens:
            self._jobs.pop(job_id, None)

    async def _reload(self, effect: fx.StartReload) -> None:
        job = self._jobs.pop(effect.job_id, None)
        is_ok = False
        try:
            if job is None or job.found is None or self._dram is None:
                return
            link = link_of(job.found.producer_traceparent)
            with self._telemetry.span(
                names.SPAN_PRE_INFER_RELOAD, parent=context_of(job.trace), links=[link] if link else []
            ) as span:
                span.set_attribute(names.ATTR_PRE_INFER_TOKENS, effect.tokens)
                begun_ns = time.monotonic_ns()
                is_ok = await self._load(self._dram, job.found, effect.page_ids[: _pages(effect.tokens)])
                if is_ok:
                    self._metrics.produced("reload", time.monotonic_ns() - begun_ns)
        except asyncio.CancelledError:
            LOG.info("a reload of %d tokens was given up", effect.tokens)
        except Exception:
            # Psi that cannot be copied in is computed.
            step = next_step("nothing now: psi is computed; report it with the traceback")
            LOG.exception("reload failed", extra=step)
        finally:
            self._report(ev.ReloadEnded(effect.job_id, is_ok))
            if job is not None and job.found is not None:
                self._unpin(job.found)

    async def _load(self, dram: DramTier, found: Found, page_ids: tuple[int, ...]) -> bool:
        """From the DRAM tier into the arena; true once all of it is there."""
        try:
            async with self._copies.staged(page_ids) as staged, self._format.room(staged.views) as stored:
                if not await dram.load(found, stored):
                    return False
                await self._format.decode(stored, staged.views)
                await self._copies.upload(page_ids, staged)
                return True
        except Refused as refusal:
            LOG.warning("no reload: %s", refusal, extra=next_step(STAGING_STEP))
            return False

    async def _spill(self, effect: fx.StartSpill) -> None:
        is_stored = False
        try:
            if self._dram is None:
                return
            with self._telemetry.span(names.SPAN_PRE_INFER_SPILL, parent=context_of(effect.producer_trace)) as span:
                span.set_attribute(names.ATTR_PRE_INFER_TOKENS, effect.tokens)
                is_stored = await self._store(self._dram, effect)
        except Refused as refusal:
            LOG.warning("not copied to DRAM: %s", refusal, extra=next_step(STAGING_STEP))
        except Exception:
            step = next_step("nothing now: psi is computed again when it is needed; report it with the traceback")
            LOG.exception("copying to DRAM failed", extra=step)
        finally:
            self._report(ev.SpillEnded(effect.entry_id, is_stored))

    async def _store(self, dram: DramTier, effect: fx.StartSpill) -> bool:
        """From the arena into the DRAM tier; true once it can be found there."""
        page_ids = effect.page_ids[: _pages(effect.tokens)]
        async with self._copies.staged(page_ids) as staged, self._format.room(staged.views) as stored:
            await self._copies.download(page_ids, staged)
            if not await self._format.encode(staged.views, stored):
                LOG.warning("psi of %d tokens holds no finite numbers: not in DRAM", effect.tokens, extra=FINITE_STEP)
                return False
            key = self._stored(effect.key)
            return await dram.store(key, effect.tokens, effect.digest, stored, effect.producer_trace)

    def _stored(self, key: PsiKey) -> PsiKey:
        """As the DRAM tier names it, which keeps each form of pages apart."""
        return replace(key, model_key=self._stored_model_key)

    async def _forget(self, owner: UserKey) -> tuple[int, bool]:
        if self._dram is None:
            return 0, True
        return await self._dram.forget(owner)

    async def _forget_again(self, owner: UserKey) -> tuple[int, bool]:
        async with self._repetitions:
            return await self._forget(owner)

    def _spawn(self, coroutine: Any) -> asyncio.Task[Any]:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _report(self, event: ev.Event) -> None:
        self._soon(self._feed, event)

    def _soon(self, call: Callable[..., Any], *arguments: Any) -> None:
        # The loop is closed only when the process is on its way out.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon(call, *arguments)


def _pages(tokens: int) -> int:
    return -(-tokens // PAGE_TOKENS)
