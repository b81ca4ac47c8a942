"""Fuzzes targets in processes of their own, so that one that dies or never ends is found, too."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.corpus import CORPUS, keep
from tests.fuzz.judge import LIMIT_S, ROOT
from tests.fuzz.table import Table
from tests.fuzz.verdict import Kind, Tally, Verdict

STUCK_S = 5 * LIMIT_S
"""An input that even a signal does not end."""
DEATHS_MAX = 3
"""Of one target, and then its run ends."""
POLL_S = 0.1
PROGRESS_S = 3.0


@dataclass
class _Child:
    """One target's process, and what those before it did."""

    target: str
    inputs: int
    seed: int
    folder: Path
    corpus: Path
    tally: Tally = field(default_factory=Tally)
    deaths: int = 0
    begun_s: float = 0.0

    def start(self) -> None:
        self.begun_s = time.perf_counter()
        path = self.folder / f"{self.target}-{self.deaths}"
        self.table = Table(path)
        left = max(0, self.inputs - self.tally.inputs)
        command = [sys.executable, "-m", "tests.fuzz", "--target", self.target, "--inputs", str(left)]
        command += ["--seed", str(self.seed + 1_000_003 * self.deaths), "--table", str(path)]
        command += ["--corpus", str(self.corpus)] + (["--no-replay"] if self.deaths else [])
        # To a file, not to a pipe that nobody empties.
        self._said = (self.folder / f"{self.target}.json").open("w+")
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=self._said)

    @property
    def count(self) -> int:
        return self.tally.inputs + self.table.count

    def is_over(self) -> bool:
        """Whether the target is done; a process that died is followed by another one."""
        if self._process.poll() is None:
            if self.table.under_way_s() < STUCK_S:
                return False
            self._process.kill()
            self._process.wait()
            self._died(Verdict(Kind.HANG, "an input that a signal does not end"))
        elif self._process.returncode in (0, 1) and (told := self._told()):
            self.tally.take(Tally.from_json(json.loads(told)[self.target]))
            return True
        elif self._process.returncode == 1:
            self._died(Verdict(Kind.CRASH, "the fuzzer itself failed"), is_kept=False)
        else:
            self._died(Verdict(Kind.CRASH, f"the process ended with {self._process.returncode}"))
        if self.deaths >= DEATHS_MAX:
            return True
        self.close()
        self.start()
        return False

    def _told(self) -> str:
        """Its last line; empty when it said nothing."""
        self._said.seek(0)
        return next(reversed(self._said.read().splitlines()), "")

    def _died(self, verdict: Verdict, *, is_kept: bool = True) -> None:
        self.deaths += 1
        name = keep(self.target, verdict, self.table.data, self.corpus) if is_kept else "nothing"
        sys.stderr.write(f"\n{self.target}: {verdict.kind.value}: {verdict.detail}\n  kept as {name}\n")
        lost = Tally(elapsed_s=time.perf_counter() - self.begun_s)
        lost.counts[Kind.ACCEPTED] = self.table.accepted
        lost.counts[Kind.REJECTED] = max(0, self.table.count - self.table.accepted - 1)
        lost.counts[verdict.kind] += 1
        lost.faults[f"{verdict.kind.value}: {verdict.detail}"] = name
        self.tally.take(lost)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._said.close()
        self.table.close()


def supervise(shares: Iterable[tuple[str, int]], seed: int, workers: int, corpus: Path = CORPUS) -> dict[str, Tally]:
    """Fuzz each target with so many inputs, `workers` at a time; progress goes to stderr."""
    tallies: dict[str, Tally] = {}
    running: list[_Child] = []
    with tempfile.TemporaryDirectory(prefix="relaygr-fuzz-") as folder:
        waiting = [_Child(target, inputs, seed, Path(folder), corpus) for target, inputs in shares]
        told_s = time.monotonic()
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    running.append(waiting.pop(0))
                    running[-1].start()
                for child in [one for one in running if one.is_over()]:
                    running.remove(child)
                    child.close()
                    tallies[child.target] = child.tally
                    _say(child.target, child.tally)
                if time.monotonic() - told_s > PROGRESS_S:
                    told_s = time.monotonic()
                    sys.stderr.write("  ".join(f"{one.target} {one.count}/{one.inputs}" for one in running) + "\n")
                time.sleep(POLL_S)
        finally:
            for child in running:
                child.close()
    return tallies


def _say(target: str, tally: Tally) -> None:
    found = tally.to_json()
    figures = "  ".join(f"{kind.value} {found[kind.value]}" for kind in Kind)
    sys.stderr.write(f"{target}: {found['inputs']} inputs, {found['inputs_per_s']}/s  {figures}\n")
