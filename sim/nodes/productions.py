"""A ranker's productions on its device: how long each chunk takes, and what the machine hears of it.

Source: design, section 3 (ranker); services/ranker/production.py.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from services.ranker.core import effects as fx
from services.ranker.core import events as ev
from services.ranker.core.jobs import TELL_NS, production_job
from services.ranker.core.schedule import Job
from sim.chains import LogChain
from sim.device import Task

if TYPE_CHECKING:
    from sim.nodes.ranker import Ranker


class _Run:
    """A production on the device."""

    __slots__ = ("effect", "job", "submitted_ns", "tokens", "told_ns", "told_tokens")

    def __init__(self, effect: fx.StartCompute, job: Job, tokens: list[int], now_ns: int) -> None:
        self.effect = effect
        self.job = job
        self.tokens = tokens
        """Covered after each chunk."""
        self.submitted_ns = self.told_ns = now_ns
        self.told_tokens = effect.from_tokens


class Productions:
    """Computes what the machine starts."""

    def __init__(self, ranker: Ranker) -> None:
        self._ranker = ranker
        self._chunk_tokens = ranker.settings.chunk_tokens

    def compute(self, effect: fx.StartCompute) -> None:
        """Extend psi, chunk by chunk."""
        ranker = self._ranker
        ranker.psi.began(effect.job_id, effect.key, effect.to_tokens)
        if ranker.is_watched:
            ranker.memory.claim(effect.page_ids, effect.key)
        job = production_job(ranker.costs_alone, effect)
        tokens, times = self._chunks(effect)
        run = _Run(effect, job, tokens, ranker.clock_ns())
        task = Task(job, list(accumulate(times)), self._computed, run, self._chunk_ended)
        if not ranker.device.submit(task):
            ranker.after(0, ranker.feed, ev.ProductionFailed(effect.job_id, "device queue full"))

    def _chunks(self, effect: fx.StartCompute) -> tuple[list[int], list[int]]:
        """Tokens covered after each chunk, and its time."""
        tokens: list[int] = []
        times: list[int] = []
        cost, at = self._ranker.true_cost, effect.from_tokens
        factor = self._ranker.device.noise(cost.relative_error)
        while at < effect.to_tokens:
            end = min(effect.to_tokens, (at // self._chunk_tokens + 1) * self._chunk_tokens)
            fixed_ns = cost.fixed_ns if times else 0
            times.append(int(factor * (cost.extend_ns(end - at, at) - fixed_ns)))
            tokens.append(end)
            at = end
        return tokens, times

    def _chunk_ended(self, run: _Run, chunks: int) -> None:
        now_ns = self._ranker.clock_ns()
        if now_ns - run.told_ns >= TELL_NS:
            self._tell(run, run.tokens[chunks - 1], now_ns)

    def _tell(self, run: _Run, tokens: int, now_ns: int) -> None:
        effect, ranker = run.effect, self._ranker
        assert isinstance(effect.chain, LogChain)
        if ranker.is_watched:
            ranker.memory.write(effect.page_ids, effect.key, effect.chain, run.told_tokens, tokens)
        run.told_ns, run.told_tokens = now_ns, tokens
        ranker.feed(ev.ChunkEnded(effect.job_id, tokens))

    def _computed(self, run: _Run, is_done: bool, spent_ns: int, chunks: int) -> None:
        effect, now_ns = run.effect, self._ranker.clock_ns()
        if is_done:
            self._ranker.observed.produced(now_ns - run.submitted_ns - spent_ns)
            self._ranker.worked(run.job.expected_ns, spent_ns)
            self._tell(run, effect.to_tokens, now_ns)
            return
        covered = run.tokens[chunks - 1] if chunks else 0
        if covered > run.told_tokens:
            # What was computed before it was ended is psi all the same.
            self._tell(run, covered, now_ns)
        self._ranker.feed(ev.ProductionFailed(effect.job_id, "ended"))
