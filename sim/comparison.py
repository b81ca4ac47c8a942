"""What each part is worth, and how a cluster takes what goes wrong, at sizes that can be chosen.

The same traffic with one part taken out at a time: users who come back after a while, users drawn by Zipf's law, and
twice the traffic. What is counted begins when the cluster is warm. And the scenarios of `sim/scenarios`, at any number
of instances.

Source: design, section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from sim.ablations import ABLATIONS
from sim.large import FRONTS_MAX, SERVED
from sim.scenario import play
from sim.story import Phase, Scenario, Users, read

RATE_HZ = 50.0
"""A second and instance: near what a whole cluster can do, so that a part that is missing is felt."""
DEVICE_MIB = 128
"""Short of what the users who come back need."""
WARM_S = 5.0
LEAST_S = 4.0
REQUESTS_MAX = 150_000
"""Of one run: larger clusters run shorter."""
TRAFFIC = {"visits": (Users(), 1.0), "skewed": (Users(count=1_000_000, zipf=0.9), 1.0), "twice": (Users(), 2.0)}
"""Who asks, and how many times the rate once it is warm."""


def compared(
    sizes: Sequence[int], seconds: float, seed: int, say: Callable[[str, object], None]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Figures by size, traffic, and what is taken out; "none" is the whole. `say` is told of each run."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for size, traffic, ablation in product(sizes, TRAFFIC, ("", *ABLATIONS)):
        name = ablation or "none"
        figures = found.setdefault(str(size), {}).setdefault(traffic, {})[name] = one(
            size, traffic, ablation, seconds, seed
        )
        say(f"{size} {traffic} {name}", figures)
    return found


def one(instances: int, traffic: str, ablation: str, seconds: float, seed: int) -> dict[str, Any]:
    """Figures of one run, once it is warm."""
    most_s = REQUESTS_MAX / (RATE_HZ * instances) - WARM_S
    users, rate = TRAFFIC[traffic]
    steady = Phase(name="steady", seconds=max(LEAST_S, min(seconds, most_s)), rate=rate)
    scenario = Scenario(
        name=f"{traffic}/{ablation or 'none'}",
        what="One part taken out.",
        instances=instances,
        rate_hz=RATE_HZ,
        phases=(Phase(name="warm", seconds=WARM_S, is_measured=False), steady),
        users=users,
        seed=seed,
        device_budget_mib=DEVICE_MIB,
        ablation=ablation,
    )
    figures = play(_fronted(scenario)).figures()["steady"]
    return {name: value for name, value in figures.items() if name != "recovery_s"}


def stressed(instances: int, seed: int) -> dict[str, Any]:
    """How soon it is over, by scenario, and what twice the load leaves in time."""
    found: dict[str, Any] = {"instances": instances}
    for name in ("lose_tenth", "rolling_restart", "flash_crowd", "overload"):
        scenario = _fronted(replace(read(name), instances=instances, seed=seed))
        figures = play(scenario).figures()
        last = list(figures.values())[-1]
        found[name] = {
            "recovery_s": last["recovery_s"],
            **{key: [each[key] for each in figures.values()] for key in ("slo_met", "survival", "affinity")},
        }
        if name == "overload":
            found["in_time_at_twice"] = round(figures["twice"]["in_time_hz"] / figures["once"]["in_time_hz"], 3)
    return found


def _fronted(scenario: Scenario) -> Scenario:
    """With as many triggers and routers as so many instances need."""
    fronts = min(FRONTS_MAX, max(1, scenario.instances // SERVED))
    return replace(scenario, triggers=fronts, routers=fronts, instances_per_host=8)
