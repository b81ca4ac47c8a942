"""Whether the machine was ours: an idle probe before a probe, and an account of the processor during it.

The idle probe runs the same small piece of work again and again on each core while the services
rest: what takes longer than its best time was taken by somebody else. During a probe the kernel's
own account says how much was stolen by the host, and how much went to processes that are not ours.
What no account shows is a core that runs slower, because its other half or its caches serve a
neighbour: a pacer on each core does a tenth of a millisecond of work twenty times a second and
looks at the processor time it took, which no queue can change.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

PIECE_LOOPS = 8_000
"""About 0.2 ms of Python."""
IDLE_PROBE_S = 0.25
"""On each core."""
LOST_SHARE_MAX = 0.12
"""Of an idle probe's time. Some is lost to the clock and to interrupts on any machine."""
PACE_S = 0.05
SLOWER_BY = 1.25
"""A pacer's piece that takes so many times the usual was slowed down."""
SLOW_SHARE_MAX = 0.25
"""Of the pacers' pieces, between two readings."""
STOLEN_SHARE_MAX = 0.03
FOREIGN_SHARE_MAX = 0.06
"""Of all cores' time. The kernel's own work for the network is in here too."""

_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Idle:
    """What an idle probe found, worst core."""

    lost_share: float
    piece_p50_us: float
    piece_p99_us: float
    piece_max_us: float

    @property
    def is_quiet(self) -> bool:
        """True when a probe may begin."""
        return self.lost_share <= LOST_SHARE_MAX

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


def idle_probe(seconds: float = IDLE_PROBE_S) -> Idle:
    """Measure each usable core in turn."""
    usable = os.sched_getaffinity(0)
    try:
        return max((_on_core(core, seconds) for core in sorted(usable)), key=lambda idle: idle.lost_share)
    finally:
        os.sched_setaffinity(0, usable)


def _on_core(core: int, seconds: float) -> Idle:
    os.sched_setaffinity(0, {core})
    pieces = []
    end_ns = time.perf_counter_ns() + int(seconds * 1e9)
    while (begun_ns := time.perf_counter_ns()) < end_ns:
        for _ in range(PIECE_LOOPS):
            pass
        pieces.append(time.perf_counter_ns() - begun_ns)
    times_us = np.asarray(pieces) / 1e3
    best_us = float(np.quantile(times_us, 0.05))
    return Idle(
        lost_share=max(0.0, 1.0 - best_us * len(pieces) / float(times_us.sum())),
        piece_p50_us=float(np.median(times_us)),
        piece_p99_us=float(np.quantile(times_us, 0.99)),
        piece_max_us=float(times_us.max()),
    )


class Pacers:
    """One thread on each usable core, while the context lasts."""

    def __init__(self) -> None:
        self._pieces_us: list[float] = []
        self._is_stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(core,), daemon=True) for core in sorted(os.sched_getaffinity(0))
        ]

    def __enter__(self) -> Pacers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_stopped.set()
        for thread in self._threads:
            thread.join()

    def slow_share(self) -> float:
        """Share of the pieces that were slowed down; the usual is their lower quartile."""
        if not self._pieces_us:
            return 0.0
        times_us = np.asarray(self._pieces_us)
        return float((times_us > SLOWER_BY * np.quantile(times_us, 0.25)).mean())

    def _run(self, core: int) -> None:
        os.sched_setaffinity(threading.get_native_id(), {core})
        while not self._is_stopped.wait(PACE_S):
            begun_ns = time.thread_time_ns()
            for _ in range(PIECE_LOOPS):
                pass
            self._pieces_us.append((time.thread_time_ns() - begun_ns) / 1e3)


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Seconds of all cores since boot."""

    busy_s: float
    stolen_s: float
    at_s: float
    by_process_s: dict[str, float]
    foreign_s: dict[int, float]
    """Of processes that are not ours, by id."""

    @classmethod
    def read(cls, processes: Iterable[tuple[str, int]]) -> CpuTimes:
        """Now; a process that is gone counts as 0."""
        user, nice, system, _, _, interrupts, soft, stolen, *_ = _machine_ticks()
        ours = dict(processes)
        by_process = {name: process_s(pid) for name, pid in ours.items()}
        busy = user + nice + system + interrupts + soft
        foreign = {pid: process_s(pid) for pid in _process_ids() if pid not in (os.getpid(), *ours.values())}
        return cls(busy * _TICK_S, stolen * _TICK_S, time.monotonic(), by_process, foreign)


@dataclass(frozen=True, slots=True)
class CpuShare:
    """Where the processor went between two readings, in cores."""

    by_process: dict[str, float]
    stolen_share: float
    """Of all cores."""
    foreign_share: float
    """Of all cores: neither ours nor idle."""

    @property
    def is_disturbed(self) -> bool:
        """True when too much of the machine was somebody else's."""
        return self.stolen_share > STOLEN_SHARE_MAX or self.foreign_share > FOREIGN_SHARE_MAX

    def to_json(self) -> dict[str, Any]:
        """Of the noise, plain values."""
        return {"stolen_share": round(self.stolen_share, 4), "foreign_share": round(self.foreign_share, 4)}


def share_between(before: CpuTimes, after: CpuTimes, own_s: float) -> CpuShare:
    """`own_s` is what this process and its ended children took meanwhile."""
    elapsed_s = after.at_s - before.at_s
    cores = len(os.sched_getaffinity(0))
    by_process = {
        name: max(0.0, seconds - before.by_process_s.get(name, 0.0)) / elapsed_s
        for name, seconds in after.by_process_s.items()
    }
    ours_s = sum(by_process.values()) * elapsed_s + own_s
    # The machine's account samples a few hundred times a second and can miss who runs in between; that of the
    # processes is exact but loses those that have ended. Either is too small at worst.
    seen_s = sum(max(0.0, seconds - before.foreign_s.get(pid, 0.0)) for pid, seconds in after.foreign_s.items())
    foreign_s = max(seen_s, after.busy_s - before.busy_s - ours_s)
    return CpuShare(
        {name: round(share, 4) for name, share in by_process.items()},
        (after.stolen_s - before.stolen_s) / (elapsed_s * cores),
        max(0.0, foreign_s / (elapsed_s * cores)),
    )


def own_cpu_s() -> float:
    """Processor time of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def process_s(pid: int) -> float:
    """Processor time of a process, all threads; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def _process_ids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def _machine_ticks() -> list[int]:
    first = Path("/proc/stat").read_text().partition("\n")[0]
    return [int(field) for field in first.split()[1:]]
