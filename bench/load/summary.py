"""A run in one line of JSON: what was found, with intervals. What was not measured is null, never guessed."""

from __future__ import annotations

import math
from typing import Any

from bench.engine.statistics import rounded
from bench.load.pool import Pool, search_of, slo_point
from bench.load.schema import FULL, LENGTH, MODES, RATE, RELAY_DRAM, Run

Interval = dict[str, float | None]
"""value, low, high. A bound that is None is not known; so is a value's own, where the search reached its most."""


def summary(run: Run) -> dict[str, Any]:
    """The document."""
    lengths = run.get("lengths", {})
    l0, l1 = lengths.get("l0_tokens"), lengths.get("l1_tokens")
    point = slo_point(run, RELAY_DRAM, l1)
    noise = run.get("noise", {})
    return {
        "slo_ms": run.get("config", {}).get("slo", {}).get("rank_ms"),
        "l0_tokens": l0,
        "l1_tokens": l1,
        "qps_at_l0": {mode: found(run, mode, RATE, l0) for mode in MODES},
        "qps_at_l1": {mode: found(run, mode, RATE, l1) for mode in MODES},
        "throughput_ratio_l0": over_full(run, RATE, l0),
        "throughput_ratio_l1": over_full(run, RATE, l1),
        "ceiling_l0": ceiling(run),
        "ceiling_l0_host": ceiling_host(run),
        "max_tokens": {mode: found(run, mode, LENGTH) for mode in MODES},
        "length_ratio": over_full(run, LENGTH),
        "fixed_rate_hz": fixed_rate_hz(run),
        "tiers": _rounded(point.shares("tiers")) if point else None,
        "survival": share(point, "survived", "admitted"),
        "reuse": share(point, "reused", "returns"),
        "noise": noise or None,
        "relay_overhead_ms": overhead_ms(run),
        "cpu_share": _cpu_share(point),
        "seconds": run.get("seconds"),
        "is_too_noisy": noise.get("is_too_noisy"),
    }


def found(run: Run, mode: str, kind: str, tokens: int | None = None) -> Interval | None:
    """What the mode's search found, None if it did not."""
    search = search_of(run, mode, kind, tokens)
    if not search or search.get("value") is None:
        return None
    low, high = search.get("low"), search.get("high") if search.get("is_bounded", True) else None
    return {"value": search["value"], "low": low and rounded(low), "high": high and rounded(high)}


def over_full(run: Run, kind: str, tokens: int | None = None) -> Interval | None:
    """relay_dram over full; only a lower bound where full held nothing that was tried."""
    relay, full = found(run, RELAY_DRAM, kind, tokens), search_of(run, FULL, kind, tokens)
    if not relay or not full or full.get("value") is not None:
        return ratio(relay, found(run, FULL, kind, tokens))
    failed = full.get("failed_probe_rates")
    low = relay["low"] / min(failed) if failed and relay["low"] else None
    return {"value": None, "low": rounded(low), "high": None} if low else None


def ratio(above: Interval | None, below: Interval | None) -> Interval | None:
    """Of two independent figures; the bounds are those of the logarithms, added as squares."""
    if not above or not below or not above["value"] or not below["value"]:
        return None
    value = above["value"] / below["value"]
    down = _reach(_distance(above["value"], above["low"]), _distance(below["value"], below["high"]))
    up = _reach(_distance(above["value"], above["high"]), _distance(below["value"], below["low"]))
    return {
        "value": rounded(value),
        "low": None if down is None else rounded(value * math.exp(-down)),
        "high": None if up is None else rounded(value * math.exp(up)),
    }


def device_ms(run: Run) -> float | None:
    """Mean device time of a relayed request at L0 by the jobs measured alone and the profile's shares."""
    work, config = run.get("work", {}).get(str(run.get("lengths", {}).get("l0_tokens"))), run.get("config", {})
    returning = config.get("return_share")
    if work is None or returning is None or not {"pre_infer_ms", "append_ms", "rank_ms"} <= work.keys():
        return None
    reloading = config.get("reload_share", 0.0)
    if reloading and "reload_ms" not in work:
        return None
    produced = (1 - returning) * work["pre_infer_ms"] + returning * work["append_ms"]
    return produced + reloading * work.get("reload_ms", 0.0) + work["rank_ms"]


def ceiling(run: Run) -> float | None:
    """throughput_ratio_l0 if devices were never idle and nothing but their jobs took time."""
    work_ms, rankers = device_ms(run), run.get("config", {}).get("rankers")
    return _over_full(run, rankers * 1000 / work_ms) if work_ms and rankers else None


def ceiling_host(run: Run) -> float | None:
    """The same with the processor time of everything else, as measured at relay_dram's rate, on these cores."""
    work_ms, other_ms = device_ms(run), host_ms(run)
    cores, threads = run.get("hardware", {}).get("usable_cores"), run.get("config", {}).get("threads")
    if work_ms is None or other_ms is None or not cores or not threads:
        return None
    return _over_full(run, cores * 1000 / (work_ms * threads + other_ms))


def host_ms(run: Run) -> float | None:
    """Processor ms of a request besides the device's jobs: other processes, and what rankers use beyond the jobs."""
    point, work_ms = slo_point(run, RELAY_DRAM, run.get("lengths", {}).get("l0_tokens")), device_ms(run)
    achieved_hz = point.achieved_hz() if point else None
    shares = point.cpu_share() if point else {}
    threads = run.get("config", {}).get("threads")
    if work_ms is None or not achieved_hz or not shares or not threads:
        return None
    rankers = sum(cores for name, cores in shares.items() if name.startswith("ranker"))
    others = sum(shares.values()) - rankers
    return 1000 * others / achieved_hz + max(0.0, 1000 * rankers / achieved_hz - work_ms * threads)


def fixed_rate_hz(run: Run) -> float | None:
    """The rate of the length searches; None if they differ."""
    rates = {search.get("at_rate_hz") for search in run.get("searches", []) if search.get("kind") == LENGTH}
    return rates.pop() if len(rates) == 1 else None


def overhead_ms(run: Run) -> dict[str, Any] | None:
    """What the relay adds to a rank: by the last probe made for it, else by the last at the fixed rate."""
    probes = [
        probe
        for purpose in (LENGTH, "overhead")
        for probe in run.get("probes", [])
        if probe.get("purpose") == purpose and probe.get("mode") == RELAY_DRAM
    ]
    measured = [probe["overhead_ms"] for probe in probes if probe.get("overhead_ms") and not probe.get("is_disturbed")]
    return dict(measured[-1]) if measured else None


def share(point: Pool | None, part: str, whole: str) -> float | None:
    """Of two counts, rounded."""
    value = point.share(part, whole) if point else None
    return None if value is None else round(value, 5)


def _cpu_share(point: Pool | None) -> dict[str, float] | None:
    shares = point.cpu_share() if point else {}
    return _rounded({name: shares[name] for name in ("router", "trigger") if name in shares}) or None


def _over_full(run: Run, qps: float) -> float | None:
    full = found(run, FULL, RATE, run.get("lengths", {}).get("l0_tokens"))
    return rounded(qps / full["value"]) if full and full["value"] else None


def _distance(value: float, bound: float | None) -> float | None:
    return abs(math.log(bound / value)) if bound else None


def _reach(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else math.hypot(one, other)


def _rounded(values: dict[str, float] | None) -> dict[str, float] | None:
    return {name: round(value, 4) for name, value in values.items()} if values else None
