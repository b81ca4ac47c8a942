"""How many instances, and what gives way first when more comes.

The most that one instance takes is found once, from the least rate upwards: the last one before the first that misses
the objective, a bound or the device's time. So more requests never need fewer instances.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache, partial
from math import ceil, inf
from typing import Any

from relaygr.plan.demand import Demand, PlanError
from relaygr.plan.device import DeviceModel
from relaygr.plan.load import Load, load_of, psi_bytes_of
from relaygr.plan.residence import held_s

GROWTH = 1.1
"""Between two rates that are tried."""
LEAST_HZ, MOST_HZ = 0.05, 1e6
BUSY_MOST = 0.95
"""Of the device's time: a queue beyond is never empty."""
REUSE_SHARE = 0.95
"""Of the returns, those that DRAM is sized for."""


@dataclass(frozen=True, slots=True)
class Margin:
    """How much more may come until something gives way."""

    what: str
    rate_hz: float
    """Of the whole deployment; infinite when it never does."""
    margin: float
    """That rate over the wanted one, less one."""
    then: str


@dataclass(frozen=True, slots=True)
class Plan:
    """A size, and what to expect of it."""

    instances: int
    hosts: int
    load: Load
    instance_hz: float
    """The most that one instance takes."""
    device_bytes: int
    """Of each instance, the least: open tickets within their share of it, or the longest history's psi."""
    dram_bytes: int
    """Of each host, so that most returns find their psi."""
    margins: tuple[Margin, ...]
    """The first to give way first."""

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is infinite is None."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def size(demand: Demand, model: DeviceModel) -> Plan:
    """The least number of instances.

    Raises:
        PlanError: not even a request at a time holds the objective; names the option to change.
    """
    loads = cache(partial(load_of, demand, model))
    most_hz = _first_miss_hz(lambda rate_hz: _holds(model, loads(rate_hz)))
    if not most_hz:
        raise PlanError("--slo", _why(demand, model))
    instances = max(1, ceil(demand.rate_hz / most_hz - 1e-9))
    hosts = ceil(instances / model.instances_per_host)
    load = loads(demand.rate_hz / instances)
    return Plan(
        instances,
        hosts,
        load,
        most_hz,
        round(max(load.footprint_bytes / model.footprint_share, psi_bytes_of(model, demand.lengths[-1]))),
        round(dram_bytes(demand, model, load)),
        tuple(sorted(_margins(demand, model, loads, instances), key=lambda margin: margin.margin)),
    )


def instance_rate_hz(demand: Demand, model: DeviceModel) -> float:
    """The most that one instance takes; 0 when it takes nothing."""
    return _first_miss_hz(lambda rate_hz: _holds(model, load_of(demand, model, rate_hz)))


def dram_bytes(demand: Demand, model: DeviceModel, load: Load) -> float:
    """Of a host: psi of those who will be back within most of the gaps, less what devices keep."""
    lengths = demand.lengths
    psi_bytes = sum(psi_bytes_of(model, tokens) for tokens in lengths) / len(lengths)
    rate_hz = load.rate_hz * load.at_risk * model.instances_per_host
    if not demand.return_share:
        return 0.0
    far_s, near_s = demand.gap_quantile_s(REUSE_SHARE), load.residence.device_s
    return rate_hz * psi_bytes * max(0.0, held_s(demand, far_s) - held_s(demand, min(near_s, far_s)))


def _holds(model: DeviceModel, load: Load) -> bool:
    return (
        load.is_in_time
        and load.busy <= BUSY_MOST
        and load.production_busy <= model.pre_infer_share
        and load.footprint_bytes <= model.footprint_share * model.device_bytes
    )


def _margins(demand: Demand, model: DeviceModel, loads: Callable[[float], Load], instances: int) -> list[Margin]:
    """Each limit alone."""

    def margin(what: str, then: str, holds: Callable[[Load], bool]) -> Margin:
        rate_hz = instances * _first_miss_hz(lambda each: holds(loads(each)))
        return Margin(what, rate_hz, rate_hz / demand.rate_hz - 1.0, then)

    found = [
        margin("device time", "queues grow without end", lambda one: one.busy <= BUSY_MOST),
        margin(
            "pre-infer share",
            "pre-infers are declined and ranked in full",
            lambda one: one.production_busy <= model.pre_infer_share,
        ),
        margin(
            "device bytes",
            "pre-infers are declined and ranked in full",
            lambda one: one.footprint_bytes <= model.footprint_share * model.device_bytes,
        ),
        margin("queueing", "ranks miss the objective", lambda one: one.is_in_time),
    ]
    needed = dram_bytes(demand, model, loads(demand.rate_hz / instances))
    times = model.dram_bytes / needed if needed else inf
    found.append(Margin("DRAM bytes", demand.rate_hz * times, times - 1.0, "more psi is made again"))
    return found


def _first_miss_hz(holds: Callable[[float], bool]) -> float:
    """The last rate that holds before the first that does not; infinite when all hold."""
    if not holds(LEAST_HZ):
        return 0.0
    low = LEAST_HZ
    while (high := low * GROWTH) < MOST_HZ:
        if not holds(high):
            break
        low = high
    else:
        return inf
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _why(demand: Demand, model: DeviceModel) -> str:
    longest = demand.lengths[-1]
    rank_ms = model.cost.upper_ns(model.cost.rank_ns(demand.candidates, 0, longest)) / 1e6
    made_ms = model.cost.upper_ns(model.cost.extend_ns(longest, 0)) / 1e6
    return (
        f"no number of instances holds {demand.slo_ms:g} ms at {demand.quantile:g}: of {longest} tokens, psi takes "
        f"{made_ms:.1f} ms to make within {demand.time_to_rank_ms:g} ms, and a rank {rank_ms:.1f} ms; "
        "allow more, shorten --length-distribution, or give --stages more time"
    )


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return None if value == inf else round(value, 6)
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
