"""One host: an expander, two rankers, processes that were stopped and replaced, and the clock they share."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

from relaygr.domain.identity import PsiKey, UserKey
from tests.property import tiers_checks
from tests.property.tiers_expander import LIMITS, Expander
from tests.property.tiers_histories import ANCHORS, OWNERS, history
from tests.property.tiers_ranker import Ranker, Sizes, Steps

NAMES = ("r1", "r2")
BEAT_NS = 8_000
GHOSTS_MAX = 2
STEPS_MAX = 1_000
"""More steps than any work has."""
ERRAND_STEPS_MAX = 4
"""Of a call that is repeated until it is answered, which may be never."""


class World:
    """What happens to the host, one thing at a time."""

    def __init__(self, sizes: Sizes, model_keys: tuple[str, str]):
        self._folder = tempfile.TemporaryDirectory(prefix="tiers-")
        self._sizes = sizes
        self.now_ns = 1_000
        self.lives: Counter[UserKey] = Counter()
        """How often each user was forgotten: psi of an earlier life is wrong psi."""
        self.fate = "answered"
        """Of the next call to the expander: answered, or its request or its reply is lost."""
        self.expander: Expander | None = None
        self.rankers: dict[str, Ranker] = {}
        self.ghosts: list[Ranker] = []
        """Stopped processes that were replaced. They still have their lock, their mapping and their copies."""
        self._boots = self._epochs = self.tickets = 0
        self.start_expander()
        for name, model_key in zip(NAMES, model_keys, strict=True):
            self._start_ranker(name, model_key)

    # Processes

    @property
    def running(self) -> list[Ranker]:
        return [ranker for ranker in self.rankers.values() if not ranker.is_stopped]

    @property
    def processes(self) -> list[Ranker]:
        """Everybody who has memory mapped."""
        return [*self.rankers.values(), *self.ghosts]

    def start_expander(self) -> None:
        self._boots += 1
        self.expander = Expander(Path(self._folder.name), self._boots)

    def end_expander(self, *, is_killed: bool) -> None:
        assert self.expander is not None
        self.expander.close(is_killed=is_killed)
        self.expander = None

    def _start_ranker(self, name: str, model_key: str) -> None:
        self._epochs += 1
        self.rankers[name] = Ranker(self, name, self._epochs, model_key, self._sizes)
        self.rankers[name].dram.beat()

    def crash_ranker(self, name: str, model_key: str) -> None:
        """SIGKILL, and started again: another epoch, an empty arena."""
        self.deliver()
        self.rankers[name].kill()
        self._start_ranker(name, model_key)

    def stop_ranker(self, name: str) -> None:
        """SIGSTOP."""
        self.rankers[name].is_stopped = True

    def resume_ranker(self, name: str) -> None:
        """SIGCONT: what was sent to it meanwhile comes first."""
        ranker = self.rankers[name]
        ranker.is_stopped = False
        ranker.take_in()
        ranker.expire()

    def replace_ranker(self, name: str, model_key: str) -> None:
        """A stopped process is taken for dead, and another is started under its name."""
        self.ghosts.append(self.rankers[name])
        self._start_ranker(name, model_key)

    def kill_ghost(self, ghost: Ranker) -> None:
        self.ghosts.remove(ghost)
        ghost.kill()

    # Time and forgetting

    def pass_time(self, by_ns: int, *, is_beating: bool) -> None:
        """With heartbeats and sweeps on the way; without, everybody is late."""
        self.deliver()
        end_ns = self.now_ns + by_ns
        while self.now_ns < end_ns:
            self.now_ns = min(self.now_ns + BEAT_NS, end_ns)
            for ranker in self.running if is_beating else ():
                ranker.dram.beat()
            for ranker in self.running:
                ranker.expire()
            if is_beating:
                self.sweep()

    def sweep(self) -> None:
        if self.expander is not None:
            self.expander.sweep(self.now_ns)

    def forget(self, owner: UserKey, first: Ranker) -> None:
        """Everybody is told; one hears of it, and tells the expander, before the others do."""
        self.lives[owner] += 1
        for ranker in self.rankers.values():
            ranker.inbox.append((owner, self.lives[owner]))
        first.take_in()

    def deliver(self) -> None:
        for ranker in self.running:
            ranker.take_in()

    # Work

    def work_of(self, ranker: Ranker) -> list[Steps]:
        """What can be moved on: all of a running process's work."""
        return [work.steps for work in ranker.work] + ranker.errands

    def advance(self, ranker: Ranker, steps: Steps, count: int) -> None:
        is_errand = steps in ranker.errands
        for _ in range(min(count, ERRAND_STEPS_MAX) if is_errand else count):
            if not ranker.advance(steps):
                if is_errand:
                    ranker.errands.remove(steps)
                return

    def finish(self, ranker: Ranker) -> None:
        """All work of a process that somebody waits for, and what follows from it."""
        for _ in range(STEPS_MAX):
            work = [work.steps for work in ranker.work]
            if not work:
                return
            for steps in work:
                self.advance(ranker, steps, STEPS_MAX)
        raise AssertionError("work never ends")

    def tick(self, ranker: Ranker, count: int) -> None:
        """All work of a process at the same pace."""
        for steps in self.work_of(ranker):
            self.advance(ranker, steps, count)

    def relay(self, ranker: Ranker, owner: UserKey, anchor: int, tokens: int, variant: int, *, copy_steps: int) -> None:
        """Pre-infer, produce, rank, without anything in between; and copy to DRAM so far."""
        ticket_id, key = self.next_ticket(), PsiKey(owner, ranker.model_key, anchor)
        if ranker.callers.pre_infer(ticket_id, key, history(tokens, variant), 50_000):
            self.finish(ranker)
        rank_id = ranker.callers.rank(key, history(tokens, variant), ticket_id, 40_000, 10)
        self.finish(ranker)
        ranker.callers.end_rank(rank_id)
        self.tick(ranker, copy_steps)

    def crowd(self, ranker: Ranker, tokens: int) -> None:
        """Everybody comes to one ranker, which fills both tiers."""
        for anchor in ANCHORS:
            for owner in OWNERS:
                self.relay(ranker, owner, anchor, tokens, 0, copy_steps=STEPS_MAX)

    def stall(self, name: str, by_ns: int, tokens: int) -> None:
        """A ranker is stopped for a while, and its neighbour is busy."""
        self.stop_ranker(name)
        self.pass_time(by_ns, is_beating=True)
        for ranker in self.running:
            self.crowd(ranker, tokens)
        self.resume_ranker(name)

    def next_ticket(self) -> str:
        self.tickets += 1
        return f"t{self.tickets}"

    # Ends

    def check(self) -> None:
        tiers_checks.check(self)

    def let_everything_end(self) -> None:
        """I6, I7: whatever was left half done ends by itself."""
        self.fate = "answered"
        for name in NAMES:
            self.resume_ranker(name)
        for ghost in list(self.ghosts):
            self.kill_ghost(ghost)
        self.pass_time(310_000, is_beating=True)
        for ranker in self.running:
            for rank_id, asked in list(ranker.callers.ranks.items()):
                assert asked.answer is not None, "a rank was never answered"
                ranker.callers.end_rank(rank_id)
            self.finish(ranker)
            ranker.dram.beat()
            while ranker.errands:  # calls are repeated until they are answered or their attachment has ended
                self.advance(ranker, ranker.errands[0], STEPS_MAX)
        self.check()
        self.pass_time(110_000, is_beating=True)
        self.check()
        tiers_checks.check_released(self)
        for name in NAMES:
            self.rankers.pop(name).kill()
        self.now_ns += LIMITS.entry_age_ns
        self.sweep()
        self.now_ns += LIMITS.tombstone_ns
        self.sweep()
        tiers_checks.check_empty(self)

    def close(self) -> None:
        """Let go of files and threads, however it ended."""
        for process in self.processes:
            process.kill()
        if self.expander is not None:
            self.end_expander(is_killed=False)
        self._folder.cleanup()
