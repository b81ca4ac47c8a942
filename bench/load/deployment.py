"""One mode's cluster: the real services on this machine, and what can be read of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.load.ablations.modes import Mode
from bench.load.callers import Target
from bench.load.ground import Ground
from bench.load.profile import Profile
from demo.cluster import Cluster, ClusterPlan, describe_ranker
from demo.processes import Supervisor
from relaygr.domain.cost import CostModel
from relaygr.rpc.identity import cost_from_pb

_MB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Deployment:
    """A running cluster of one mode."""

    mode: Mode
    cluster: Cluster
    profile: Profile
    ground: Ground

    @property
    def target(self) -> Target:
        """Where a generator sends."""
        slo, stages, deployment = self.profile.slo, self.profile.stages, self.profile.deployment
        return Target(
            trigger=self.cluster.addresses["trigger"],
            router=self.cluster.addresses["router"],
            generation=self.ground.generation,
            rank_budget_ms=slo.rank_ms,
            rank_timeout_ms=deployment.rank_timeout_ms,
            rank_latest_ms=deployment.rank_latest_ms,
            time_to_rank_ms=stages.retrieval_ms + stages.pre_processing_ms,
        )

    @property
    def processes(self) -> list[tuple[str, int]]:
        """Names and ids of what runs."""
        supervisor = self.cluster.supervisor
        ended = supervisor.ended()
        return [(name, supervisor.pid(name)) for name in supervisor.names() if name not in ended]

    def counters(self) -> Counter[str]:
        """Counters of all rankers since boot, added up."""
        total: Counter[str] = Counter()
        for name in self.cluster.ranker_names:
            described = describe_ranker(self.cluster.addresses[name])
            total.update({counter.name: counter.value for counter in described.counters})
        return total

    def costs(self) -> list[CostModel]:
        """What each ranker publishes."""
        return [cost_from_pb(describe_ranker(self.cluster.addresses[name]).cost) for name in self.cluster.ranker_names]


@contextmanager
def deployed(
    mode: Mode, profile: Profile, ground: Ground, run_dir: Path, *, has_traces: bool = False
) -> Iterator[Deployment]:
    """Start a mode's cluster, and stop it afterwards; with traces it also runs a collector, and costs more.

    Raises:
        ProcessFailed: names the process that did not come up.
    """
    wanted = profile.deployment
    budget = {"pre_infer_share": str(wanted.pre_infer_share)}
    plan = ClusterPlan(
        run_dir=run_dir,
        model_dir=ground.model_dir.resolve(),
        store_dir=ground.store_dir.resolve(),
        device_budget_bytes=wanted.device_budget_mb * _MB,
        dram_budget_bytes=wanted.dram_budget_mb * _MB,
        rankers=wanted.rankers,
        without=(*(() if has_traces else ("console",)), *mode.without),
        commands=mode.commands,
        extra=mode.extra,
        overrides={
            "ranker": {**budget, "dtype": profile.model.dtype, "threads": str(wanted.threads)},
            "trigger": {
                **budget,
                "footprint_share": str(wanted.footprint_share),
                "slo_quantile": str(profile.slo.quantile),
                "rank_budget_ms": str(profile.slo.rank_ms),
            },
        },
    )
    run_dir.mkdir(parents=True, exist_ok=True)
    with Supervisor(run_dir / "logs") as supervisor:
        cluster = Cluster(plan, supervisor)
        cluster.start()
        yield Deployment(mode, cluster, profile, ground)
