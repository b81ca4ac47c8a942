"""Confirms a plan: runs its cluster, or a part of it under the same load an instance, and says whether it holds.

Reads one JSON document (demand, model, instances) from standard input and prints one: `relaygr plan` calls it as a
process, since the package that plans may not know the services.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bench.load.estimate import wilson_interval
from bench.load.profile import Profile, load_profile
from relaygr.domain.cost import CostModel
from sim.cluster import Cluster
from sim.kernel import MS, Kernel, rest_collector
from sim.large import measured
from sim.measured import MESSAGES
from sim.population import Population
from sim.record import share
from sim.settings import LIMITS, Settings

INSTANCES_MOST = 8
REQUESTS = 12_000
"""Of a run; a hundred are beyond the 99th percentile."""
SECONDS_MOST = 900.0
WINDOW_MS = 1000.0


class Mixed(Population):
    """Histories of given lengths, equally likely."""

    def __init__(self, kernel: Kernel, settings: Settings, lengths: list[int]) -> None:
        super().__init__(kernel, settings)
        self._tokens = lengths
        self._choice = kernel.chance("lengths")

    def first_tokens(self, user: int) -> int:
        """Tokens of a user's history when it is first seen."""
        return max(2, self._choice.choice(self._tokens))


def confirm(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Run it.

    Returns:
        Shares by tier, survival, the tail at the objective's quantile, and whether the objective was held: not unless
        the requests that were late can be so many by chance (95 %).
    """
    settings = settings_of(spec)
    lengths = [int(tokens) for tokens in spec["demand"]["lengths"]]
    cluster = Cluster(settings, Mixed(Kernel(settings.seed), settings, lengths))
    cluster.run()
    record, quantile = cluster.record, settings.profile.slo.quantile
    late = record.requests - record.met
    least, _ = wilson_interval(late, record.requests, dispersion=4.0)
    tiers = record.tiers
    return {
        "is_confirmed": least <= 1.0 - quantile,
        "said": f"{late} of {record.requests} late; {settings.instances} instances, {settings.rate_hz:.4g} requests/s",
        "late": late,
        "requests": record.requests,
        "instances": settings.instances,
        "on_device": share(tiers["DEVICE"] + tiers["JOINED"], record.ranked),
        "dram": share(tiers["DRAM"], record.ranked),
        "full": share(tiers["FULL"], record.ranked),
        "survival": share(record.survived, record.accepted),
        "device_busy": measured(cluster)["device_busy"],
        "tail_ms": record.quantile_ms(quantile),
    }


def settings_of(spec: Mapping[str, Any]) -> Settings:
    """The cluster, or so many of its instances as can be run in a few seconds."""
    demand, model = spec["demand"], spec["model"]
    instances = min(INSTANCES_MOST, int(spec["instances"]))
    rate_hz = demand["rate_hz"] * instances / spec["instances"]
    hosts = -(-instances // model["instances_per_host"])
    return Settings(
        instances=instances,
        instances_per_host=-(-instances // hosts),
        rate_hz=rate_hz,
        seconds=min(SECONDS_MOST, REQUESTS / rate_hz),
        profile=_profile(demand, model),
        cost=CostModel(**model["cost"]),
        limits=replace(LIMITS, window_behaviours_max=max(LIMITS.window_behaviours_max, 2 * max(demand["lengths"]))),
        device_budget_bytes=model["device_bytes"],
        dram_budget_bytes=int(model["dram_bytes"] / model["instances_per_host"]) * -(-instances // hosts),
        has_dram=model["dram_bytes"] > 0,
        # Half of what a rank takes beside its device is on the way; the other half is the instance's.
        delay_ns=int(demand["overhead_ms"] * MS / MESSAGES / 2),
        loop_ns=int(demand["overhead_ms"] * MS / 2),
        checks="some",
    )


def _profile(demand: Mapping[str, Any], model: Mapping[str, Any]) -> Profile:
    """The benchmark's profile, with what was asked for."""
    base, slo_ms, stages_ms = load_profile("default"), demand["slo_ms"], demand["time_to_rank_ms"]
    return replace(
        base,
        slo=replace(base.slo, rank_ms=slo_ms, end_to_end_ms=slo_ms + stages_ms, quantile=demand["quantile"]),
        stages=replace(base.stages, retrieval_ms=stages_ms, pre_processing_ms=0.0, spread=0.0),
        traffic=replace(
            base.traffic,
            candidates=demand["candidates"],
            return_share=demand["return_share"],
            return_gap_s=demand["gap_s"],
            return_gap_spread=demand["gap_spread"],
            return_gap_least_s=0.0,
            append_mean=float(demand["append_tokens"]),
        ),
        deployment=replace(
            base.deployment,
            pre_infer_share=model["pre_infer_share"],
            footprint_share=model["footprint_share"],
            rank_timeout_ms=max(base.deployment.rank_timeout_ms, 4 * slo_ms),
            rank_latest_ms=max(WINDOW_MS, stages_ms + 2 * slo_ms),
        ),
    )


def main() -> int:
    """Read, run, print."""
    rest_collector()
    print(json.dumps(confirm(json.load(sys.stdin))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
