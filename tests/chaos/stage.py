"""Clusters on which scenarios are played: one plain, one whose every connection passes the proxy, one of three etcds.

Each is the deployment of demo/cluster.py with two rankers and two routers. A scenario leaves it whole for the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.tiers.soak_ground import PAGE_BYTES
from bench.tiers.soak_real import DEVICE_PSI, PSI_PAGES
from demo.cluster import Cluster, ClusterPlan, deployment_of, free_addresses
from demo.processes import ProcessSpec, Supervisor
from tests.chaos.ground import VERSIONS, Ground
from tests.chaos.proxy import Proxy

DRAM_BYTES = 64 * 1024 * 1024
SHARED = Path("/dev/shm")
CLIENT = "client"
"""The caller that is no process of the cluster."""
SERVICES = ("trigger", "router", "ranker", "expander")
STAGES = ("plain", "proxied", "etcds")


@dataclass(slots=True)
class Stage:
    """A running cluster."""

    name: str
    cluster: Cluster
    ground: Ground
    run_dir: Path
    specs: Mapping[str, ProcessSpec]
    """How each process was started first."""
    proxy: Proxy | None = None

    @property
    def trigger(self) -> str:
        """Where callers find it."""
        return self._reached("trigger")

    @property
    def routers(self) -> str:
        """Where callers find them."""
        return ",".join(map(self._reached, self.cluster.router_names))

    def shared_files(self) -> set[str]:
        """Segments and lock files of this deployment, by name."""
        return {path.name for path in SHARED.glob(f"relaygr-{deployment_of(self.run_dir)}-*")}

    def _reached(self, name: str) -> str:
        address = self.cluster.addresses[name]
        return address if self.proxy is None else self.proxy.reach(CLIENT, name, address)


@contextmanager
def staged(name: str, ground: Ground, run_dir: Path, seed: int, *, has_console: bool = True) -> Iterator[Stage]:
    """Start a cluster; end it afterwards.

    Raises:
        ProcessFailed: names the process that did not come up.
    """
    assert name in STAGES, f"no stage {name}"
    run_dir.mkdir(parents=True, exist_ok=True)
    for log in (run_dir / "logs").glob("*.log"):
        log.unlink()
    lanes = _lanes() if name == "proxied" else {}
    proxy = Proxy(seed, {each: (port,) for each, port in lanes.items()}) if name == "proxied" else None
    plan = _plan(run_dir, ground, lanes, proxy, etcds=3 if name == "etcds" else 1, has_console=has_console)
    try:
        with Supervisor(run_dir / "logs", grace_s=8.0) as supervisor:
            cluster = Cluster(plan, supervisor)
            cluster.start()
            specs = {each: supervisor.spec(each) for each in supervisor.names()}
            yield Stage(name, cluster, ground, run_dir, specs, proxy)
    finally:
        if proxy is not None:
            proxy.close()


def _plan(
    run_dir: Path, ground: Ground, lanes: dict[str, int], proxy: Proxy | None, *, etcds: int, has_console: bool
) -> ClusterPlan:
    overrides: dict[str, dict[str, str]] = {name: {"lane_port": str(port)} for name, port in lanes.items()}
    for service in SERVICES:
        # Of a process that bears its service's name, this is the same entry.
        overrides.setdefault(service, {})["trace_sample_ratio"] = "0.1"
    overrides["trigger"] |= {"footprint_share": "0.9", "pre_infer_share": "0.9"}
    overrides["ranker"] |= {"pre_infer_share": "0.9"}
    return ClusterPlan(
        run_dir=run_dir,
        model_dir=ground.models[VERSIONS[0]],
        store_dir=ground.store_dir,
        device_budget_bytes=DEVICE_PSI * PSI_PAGES * PAGE_BYTES,
        dram_budget_bytes=DRAM_BYTES,
        routers=2,
        etcds=etcds,
        without=() if has_console else ("console",),
        overrides=overrides,
        **({} if proxy is None else {"reach": proxy.reach}),
    )


def _lanes() -> dict[str, int]:
    """A fixed port for the lanes of each process, for the proxy to stand before."""
    names = ("trigger", "router", "router-2", "expander", "ranker-1", "ranker-2")
    return {
        name: int(address.rpartition(":")[2]) for name, address in zip(names, free_addresses(len(names)), strict=True)
    }
