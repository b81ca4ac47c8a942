"""Fuzzes one target in this process."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from random import Random

from tests.fuzz.corpus import CORPUS, keep, kept, minimised
from tests.fuzz.judge import LIMIT_S, Held, Judge
from tests.fuzz.subject import Subject
from tests.fuzz.table import Table
from tests.fuzz.verdict import FAULTS, Kind, Tally, Verdict, crash

WARM_SHARE = 0.3
"""Of the inputs; what the process holds is measured first after these."""
HONEST_EVERY = 2_000
"""Inputs, and then an honest request must be served as ever."""
MEMORY = "/dev/shm"
FAULTS_MAX = 20
"""Different ones, and then the run ends: there is enough to do."""

Open = Callable[[Path], AbstractAsyncContextManager[Subject]]


def opener(target: str) -> Open:
    """What opens a target by name."""
    found: Open = importlib.import_module(f"tests.fuzz.targets.{target}").opened
    return found


async def fuzz(
    target: str,
    opened: Open,
    inputs: int,
    seed: int,
    *,
    table: Table | None = None,
    corpus: Path = CORPUS,
    limit_s: float = LIMIT_S,
    is_replayed: bool = True,
) -> Tally:
    """Give a target the inputs it once failed at, and then as many new ones."""
    # What a library has to say of each bad input nobody reads.
    logging.getLogger().setLevel(logging.WARNING)
    # Half of the targets write files for each input: into memory, where there is such a folder.
    fast = MEMORY if os.access(MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="relaygr-fuzz-", dir=fast) as directory:
        async with opened(Path(directory)) as subject:
            with Judge(subject, limit_s) as judge:
                run = _Run(target, subject, judge, table, corpus)
                began_s = time.perf_counter()
                if is_replayed:
                    await run.replay()
                await run.draw(inputs, Random(f"{target} {seed}"))
                run.tally.elapsed_s = time.perf_counter() - began_s
                return run.tally


class _Run:
    def __init__(self, target: str, subject: Subject, judge: Judge, table: Table | None, corpus: Path) -> None:
        self._target, self._subject, self._judge = target, subject, judge
        self._table, self._corpus = table, corpus
        self.tally = Tally()

    async def replay(self) -> None:
        for name, data in kept(self._target, self._corpus):
            verdict = await self._given(data)
            self.tally.replayed += 1
            if verdict.kind in FAULTS:
                self._told(verdict, name)

    async def draw(self, inputs: int, random: Random) -> None:
        warm_after, before = int(inputs * WARM_SHARE), None
        for number in range(inputs):
            if number == warm_after:
                before = await Held.now(self._subject)
            data = self._subject.draw(random)
            verdict = await self._given(data)
            if verdict.kind in FAULTS:
                await self._found(data, verdict)
            if number % HONEST_EVERY == HONEST_EVERY - 1:
                await self._ask_honestly(data)
            if len(self.tally.faults) >= FAULTS_MAX:
                break
        after = await Held.now(self._subject)
        for leak in after.leaks_since(before, self._subject) if before is not None else ():
            self._told(Verdict(Kind.LEAK, leak), "")
        await self._ask_honestly(b"")

    async def _given(self, data: bytes) -> Verdict:
        if self._table is not None:
            self._table.begin(data)
        verdict = await self._judge.verdict(data)
        if self._table is not None:
            self._table.end(verdict.kind is Kind.ACCEPTED)
        if verdict.kind is not Kind.LEAK:
            self.tally.add(verdict)
        return verdict

    async def _found(self, data: bytes, verdict: Verdict) -> None:
        if f"{verdict.kind.value}: {verdict.detail}" in self.tally.faults:
            return
        if verdict.kind is not Kind.HANG:
            data = await minimised(self._subject, self._judge, data, verdict)
        self._told(verdict, keep(self._target, verdict, data, self._corpus), data)

    async def _ask_honestly(self, last: bytes) -> None:
        problem = await self._subject.still_serves()
        if problem:
            verdict = crash(f"honest requests fail: {problem}")
            self.tally.add(verdict)
            self._told(verdict, "", last)

    def _told(self, verdict: Verdict, name: str, data: bytes = b"") -> None:
        if verdict.kind is Kind.LEAK:
            self.tally.add(verdict)
        key = f"{verdict.kind.value}: {verdict.detail}"
        if key in self.tally.faults:
            return
        self.tally.faults[key] = name
        sys.stderr.write(f"\n{self._target}: {key}\n  kept as {name or 'nothing'}; {data[:200]!r}\n{verdict.trace}\n")
