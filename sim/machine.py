"""The cluster of a benchmark's run under virtual time: built from what the run measured, sent what its probes sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench.load.estimate import bursts_of
from bench.load.profile import Profile, Traffic, profile_of
from bench.load.traffic import Plan, plan
from sim.cluster import Cluster
from sim.cores import Cores
from sim.kernel import MS, SECOND
from sim.measured import FULL, RELAY, Measured, Row, measured_of
from sim.messages import Request
from sim.record import Record
from sim.settings import MIB, Settings
from sim.trace import Planned

SECTIONS = ("slo", "stages", "traffic", "lengths", "deployment", "model")
"""Of a profile, among what a run says of its configuration."""
TOKEN_BYTES = 4096
"""K/V of the benchmark's model, d256_h4x64_l4 in bfloat16."""
BACKGROUND_NS = 10 * MS
"""Between two pieces of the background's work."""
USERS = 10_000_000


@dataclass(slots=True)
class Outcome:
    """Counted requests of one simulated probe."""

    ranks_ms: list[float]
    late: int
    bursts: tuple[int, ...]
    tiers: Counter[str]

    def quantile_ms(self, quantile: float) -> float:
        """The next larger one that was seen, as the benchmark does it."""
        return float(np.quantile(self.ranks_ms, quantile, method="higher"))


class Counted(Record):
    """Keeps the requests after the warm-up."""

    def __init__(self, rank_ns: int, end_to_end_ns: int, first: int) -> None:
        super().__init__(rank_ns, end_to_end_ns)
        self._first = first
        self.requests_ended: list[Request] = []

    def add(self, request: Request) -> None:
        """A request has ended."""
        if request.index >= self._first:
            super().add(request)
            self.requests_ended.append(request)


class Machine:
    """The measured cluster, to be run as often as wanted."""

    def __init__(self, run: Row) -> None:
        """Raises Unmeasured when the run lacks something."""
        self.profile: Profile = profile_of(run["config"]["name"], {name: run["config"][name] for name in SECTIONS})
        self.measured: Measured = measured_of(run, TOKEN_BYTES)

    def run(self, mode: str, tokens: int, rate_hz: float, traffic: Traffic, trace_seed: int, seed: int) -> Outcome:
        """One probe."""
        profile = replace(self.profile, traffic=traffic)
        requests = plan(
            Plan(
                traffic=traffic,
                stages=profile.stages,
                rate_hz=rate_hz,
                seed=trace_seed,
                first_user=0,
                users=USERS,
                tokens=tokens,
            )
        )
        settings = self._settings(mode, rate_hz, profile, requests[-1].arrives_ns / SECOND + 1.0, seed)
        first = sum(not request.is_counted for request in requests)
        record = Counted(int(profile.slo.rank_ms * MS), int(profile.slo.end_to_end_ms * MS), first)
        cluster = Cluster(settings, Planned(requests, settings.limits), record)
        for ranker in cluster.rankers.values():
            ranker.true_cost = self.measured.true
        self._load(cluster, mode, [(request.arrives_ns, request.due_ns) for request in requests])
        cluster.run()
        return _outcome(record, int(profile.slo.rank_ms * MS))

    def _settings(self, mode: str, rate_hz: float, profile: Profile, seconds: float, seed: int) -> Settings:
        wanted, measured = profile.deployment, self.measured
        return Settings(
            seed=seed,
            instances=wanted.rankers,
            instances_per_host=wanted.rankers,
            rate_hz=rate_hz,
            seconds=seconds,
            users=USERS,
            direct_share=1.0 if mode == FULL else 0.0,
            has_dram=mode not in (FULL, RELAY),
            profile=profile,
            cost=measured.published,
            device_budget_bytes=wanted.device_budget_mb * MIB,
            dram_budget_bytes=wanted.dram_budget_mb * MIB,
            delay_ns=measured.message_ns,
            delay_spread=measured.message_spread,
            skew_ns=0,
            checks="some",
        )

    def _load(self, cluster: Cluster, mode: str, times_ns: Sequence[tuple[int, int]]) -> None:
        """The machine's other work: a relayed request's is done half on its arrival, half when it is ranked."""
        kernel, host = cluster.kernel, self.measured.host[mode]
        cores = Cores(kernel, [ranker.device for ranker in cluster.rankers.values()], self.measured.cores)
        for arrives_ns, due_ns in times_ns:
            parts = (due_ns,) if mode == FULL else (arrives_ns, due_ns)
            for at_ns in parts:
                kernel.at(at_ns, cores.want, int(host.request_ns / len(parts)))
        for at_ns in range(0, int(cluster.settings.seconds * SECOND), BACKGROUND_NS):
            kernel.at(at_ns, cores.want, int(host.background * BACKGROUND_NS))


def _outcome(record: Counted, rank_ns: int) -> Outcome:
    ended = sorted(record.requests_ended, key=lambda request: request.index)
    is_late = [bool(request.error) or request.rank_ns > rank_ns for request in ended]
    return Outcome([request.rank_ns / MS for request in ended], sum(is_late), bursts_of(is_late), record.tiers)
