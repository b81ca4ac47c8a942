"""What is seen of a cluster's processes every few seconds: memory, files, threads, and what the services say.

Source: design, section 5, invariant I3.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import urllib.request
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import grpc

from demo.cluster import Cluster, describe_ranker
from relaygr.v1 import expander_pb2, expander_pb2_grpc
from services.ranker.core.counters import RACE_COUNTERS

SHARED = "/dev/shm/"  # noqa: S108
"""Where segments lie: mappings of these are the expander's budget and nobody's growth."""
ASK_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class ProcessSample:
    """One process at one moment."""

    name: str
    pid: int
    age_s: float
    """Since it was first seen under this id."""
    rss_mb: float
    own_mb: float
    """Its share of memory (PSS), segments left out. Changes with who else maps the same libraries."""
    anonymous_mb: float
    """What it has allocated: neither files nor segments. Changes with what it does alone."""
    fds: int
    threads: int


@dataclass(frozen=True, slots=True)
class Sample:
    """The cluster at one moment."""

    at_s: float
    processes: tuple[ProcessSample, ...]
    held: dict[str, int]
    """What requests hold: has to be nothing once they have ended. Of those that answered."""
    seen: dict[str, float]
    """Occupancy, and counters since boot."""
    unanswered: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self)


@dataclass(slots=True)
class Sampler:
    """Asks; remembers when it saw a process first, and the worst of the counters that must be zero."""

    cluster: Cluster
    begun_s: float = field(default_factory=time.monotonic)
    must_be_zero: Counter[str] = field(default_factory=Counter)
    """The highest value seen, by name."""
    samples: list[Sample] = field(default_factory=list)
    _first_s: dict[int, float] = field(default_factory=dict)

    def take(self) -> Sample:
        """One sample, kept too; takes tenths of a second."""
        at_s = time.monotonic() - self.begun_s
        held: Counter[str] = Counter()
        seen: dict[str, float] = {}
        unanswered = []
        for name in (*self.cluster.ranker_names, "expander"):
            try:
                self._ask(name, held, seen)
            except grpc.RpcError:
                unanswered.append(name)
        try:
            self._look_at_console(held)
        except (OSError, ValueError):
            unanswered.append("console")
        sample = Sample(at_s, tuple(self._processes(at_s)), dict(held), seen, tuple(unanswered))
        self.samples.append(sample)
        return sample

    def _ask(self, name: str, held: Counter[str], seen: dict[str, float]) -> None:
        address = self.cluster.addresses[name]
        if name != "expander":
            said = describe_ranker(address, ASK_TIMEOUT_S)
            load = said.load
            held["tickets"] += said.open_tickets
            held["jobs"] += load.rank_jobs + load.full_jobs + load.pre_infer_jobs
            seen[f"{name} psi"] = said.resident_entries
            seen[f"{name} used share"] = load.device_used_bytes / max(1, load.device_budget_bytes)
            counters = {counter.name: counter.value for counter in said.counters}
            self._worst({counter: counters[counter] for counter in RACE_COUNTERS})
            seen |= {f"{name} {counter}": value for counter, value in counters.items() if value}
            return
        with grpc.insecure_channel(address) as channel:
            stub = expander_pb2_grpc.ExpanderServiceStub(channel)
            found = stub.Describe(expander_pb2.ExpanderServiceDescribeRequest(), timeout=ASK_TIMEOUT_S)
        held["pins"] += found.pins
        held["staging_bytes"] += found.staging_bytes
        held["quarantined_bytes"] += found.quarantined_bytes
        seen["expander psi"] = found.entries
        seen["expander used share"] = found.published_bytes / max(1, found.segment_bytes)
        seen |= {"expander hits": found.hits, "expander misses": found.misses, "expander evicted": found.evictions}

    def _look_at_console(self, held: Counter[str]) -> None:
        """What only telemetry tells; up to five seconds old."""
        overview = self._overview()
        self._worst({one["event"]: int(one["value"]) for one in overview["must_be_zero"] if one["value"]})
        self._worst({one["event"]: 0 for one in overview["must_be_zero"]})
        for one in overview["instances"]:
            if one["device"]:
                held["reserved_pages"] += one["device"]["reserved_pages"]
            elif one["service"] == "relaygr-trigger":
                held["trigger_tickets"] += int(one["open_tickets"] or 0)
        held["doomed_bytes"] += sum(one["bytes"]["doomed"] for one in overview["dram"])

    def _overview(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.cluster.console_url}/api/overview", timeout=ASK_TIMEOUT_S) as answer:  # noqa: S310
            return dict(json.load(answer))

    def _worst(self, values: Mapping[str, int]) -> None:
        for name, value in values.items():
            self.must_be_zero[name] = max(self.must_be_zero[name], value)

    def _processes(self, at_s: float) -> list[ProcessSample]:
        supervisor = self.cluster.supervisor
        found = []
        for name in supervisor.names():
            pid = supervisor.pid(name)
            first_s = self._first_s.setdefault(pid, at_s)
            with contextlib.suppress(OSError, KeyError):
                found.append(read_process(name, pid, at_s - first_s))
        return found


def read_process(name: str, pid: int, age_s: float) -> ProcessSample:
    """What the kernel says of a process.

    Raises:
        OSError: it has ended.
        KeyError: it is ending and has no memory any more.
    """
    folder = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
    return ProcessSample(
        name=name,
        pid=pid,
        age_s=round(age_s, 1),
        rss_mb=int(status["VmRSS"].split()[0]) / 1024,
        own_mb=own_kb((folder / "smaps").read_text()) / 1024,
        anonymous_mb=int(status["RssAnon"].split()[0]) / 1024,
        fds=len(os.listdir(folder / "fd")),
        threads=int(status["Threads"]),
    )


def own_kb(smaps: str) -> int:
    """PSS of all mappings but those of segments, from the text of a smaps file."""
    total, is_shared = 0, False
    for line in smaps.splitlines():
        word = line.split(None, 1)[0]
        if not word.endswith(":"):
            is_shared = SHARED in line
        elif word == "Pss:" and not is_shared:
            total += int(line.split()[1])
    return total
