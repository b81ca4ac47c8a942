"""One run from its settings, and the small clusters that are run by the hundred.

Source: design, section 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bench.load.profile import Lengths, Stages, load_profile
from bench.tiers.policies import COST
from sim.checks import demand
from sim.cluster import Cluster
from sim.faults import KINDS, Faults, drawn
from sim.kernel import MS
from sim.settings import MIB, Settings

SMALL_LENGTHS = Lengths(median_tokens=1100, spread=0.5, most_tokens=2400, least_tokens=32)


_DEFAULT = load_profile("default")
SMALL_PROFILE = replace(
    _DEFAULT,
    slo=replace(_DEFAULT.slo, rank_ms=30.0),
    stages=Stages(retrieval_ms=150.0, pre_processing_ms=50.0, spread=1.0),
    deployment=replace(_DEFAULT.deployment, footprint_share=0.9),
)
"""Ranks come late, early, and after their windows."""
SLOW_COPIES = tuple(replace(COST, reload_byte_ns=each) for each in (2.0, 10.0, 40.0))
"""So that something happens while one is under way."""


def small(seed: int, *, has_faults: bool = True) -> Settings:
    """A cluster that is short of everything: what a seed has to find, it finds within seconds."""
    return Settings(
        seed=seed,
        instances=2 + seed % 3,
        instances_per_host=2,
        rate_hz=(30.0, 60.0, 90.0)[seed // 4 % 3],
        seconds=4.0,
        profile=SMALL_PROFILE,
        cost=SLOW_COPIES[seed % 3],
        triggers=1 + seed % 2,
        routers=1 + seed // 2 % 2,
        lengths=SMALL_LENGTHS,
        users=6 + seed % 23,
        direct_share=0.25,
        device_budget_bytes=(12, 24, 48)[seed // 12 % 3] * MIB,
        dram_budget_bytes=40 * MIB,
        has_faults=has_faults,
        heartbeat_ns=100 * MS,
        owner_lapse_ns=400 * MS,
    )


def run(settings: Settings, kinds: Sequence[str] = KINDS) -> Cluster:
    """Run to the end.

    Args:
        settings: what.
        kinds: of faults, where there are any.

    Raises:
        AssertionError: a core's invariant or a rule of the design does not hold.
    """
    cluster = Cluster(settings)
    if settings.has_faults:
        Faults(cluster, drawn(settings, cluster.kernel.chance("faults"), kinds))
    cluster.run()
    if not settings.has_faults and not settings.ablation:
        record = cluster.record
        demand(record.met_instance == record.accepted, "affinity", "a rank did not meet its psi's instance")
        demand(not cluster.client.unanswered, "I6", f"{cluster.client.unanswered} ranks were not answered in time")
    return cluster
