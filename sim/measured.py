"""What a run of the load benchmark measured of its machine, as the simulator's inputs.

Everything comes from `run.json`, and nothing from the latencies, rates and tiers that are then predicted:

* device time of a production: the steps timed alone, times what full inference at work took over what it took alone;
* device time of a rank, on psi and in full: medians of the stage `compute` in the probes of the length search, which
  run at one low rate and are not compared with anything;
* noise of device times: P99 over median of the same stage, of full inference;
* messages: means and P99 of the stages outside the devices, from the same probes;
* processor time beside the devices: a constant and an amount for each request, by least squares over all probes of
  the mode, from the processes' processor time less the device time of the jobs they counted.

Source: bench/load/{steps,tally,probe}.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Any

import numpy as np

from relaygr.domain.cost import CostModel
from sim.device import P99_SIGMAS

Row = Mapping[str, Any]
Point = tuple[float, float, float]
"""New tokens, (query, key) pairs, milliseconds."""
FULL, RELAY, RELAY_DRAM = "full", "relay", "relay_dram"
CALIBRATION = "length"
"""Purpose of the probes that times are taken from."""
PLAIN = ("search_l0", "search_l1", "sweep", "length", "overhead")
"""Purposes with the profile's own traffic."""
ONE_SIDED_P99 = 2.326
"""Standard deviations."""
FIXED_NS = 150_000.0
"""Of a job with hardly a token; too small to be told from two lengths, so it is the reference model's."""
RELOAD_FIXED_NS = 3_000_000.0
"""What a ranker publishes until it has measured reloads at work."""
MESSAGES = 4
"""On the way of a rank: client, router, ranker and back."""
OUTSIDE = ("send_late", "hops", "prepare", "between")
SERVICES_LEFT_OUT = ("etcd",)
"""Its work does not grow with requests."""


class Unmeasured(ValueError):
    """A run that does not have what a simulation needs; the text says what."""


@dataclass(frozen=True, slots=True)
class MeasuredCost(CostModel):
    """A device's true times, one formula for each kind of work: (fixed, by the token, by the pair), nanoseconds."""

    production: tuple[float, float, float]
    on_psi: tuple[float, float, float]
    in_full: tuple[float, float, float]

    def extend_ns(self, new_tokens: int, context_tokens: int) -> int:
        """A production."""
        return _ns(self.production, new_tokens, causal_pairs(new_tokens, context_tokens))

    def rank_ns(self, candidates: int, delta_tokens: int, context_tokens: int) -> int:
        """A rank, from nothing when there is no context."""
        pairs = causal_pairs(delta_tokens, context_tokens) + candidates * (context_tokens + delta_tokens + 1)
        return _ns(self.on_psi if context_tokens else self.in_full, delta_tokens + candidates, pairs)


@dataclass(frozen=True, slots=True)
class HostWork:
    """Processor time of a mode beside the devices."""

    background: float
    """Cores, whatever the rate."""
    request_ns: float
    """Of each request."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Inputs of a simulation."""

    published: CostModel
    """As an instance would publish it: one formula for all."""
    true: MeasuredCost
    message_ns: int
    """One way, median."""
    message_spread: float
    """Standard deviation of its logarithm."""
    host: Mapping[str, HostWork]
    """By mode."""
    cores: int


def measured_of(run: Row, token_bytes: int) -> Measured:
    """Read a run.

    Raises:
        Unmeasured: it lacks a part.
    """
    candidates, delta = run["config"]["traffic"]["candidates"], run["config"]["traffic"]["delta_most"] / 2
    full, relay = (_calibration(run, mode) for mode in (FULL, RELAY_DRAM))
    in_full = _formula(_in_full(probe["tokens"], candidates, delta, _median(probe, "FULL")) for probe in full)
    appended = run["config"]["traffic"]["append_mean"]
    on_psi = _formula(_on_psi(one["tokens"], candidates, delta, appended, _median(one, "DEVICE")) for one in relay)
    alone = _formula(_in_full(int(tokens), candidates, 0, work["full_ms"]) for tokens, work in _work(run))
    at_work = float(
        np.median([_median(probe, "FULL") / _full_ms(alone, probe["tokens"], candidates) for probe in full])
    )
    made = [(int(tokens), at_work * work["pre_infer_ms"]) for tokens, work in _work(run)]
    production = _formula((tokens, causal_pairs(tokens, 0), took_ms) for tokens, took_ms in made)
    sigma = float(np.mean([_sigma(probe["stages_ms"]["FULL"]["compute"]) for probe in full]))
    reload_ms = [work["reload_ms"] * 1e6 / (int(tokens) * token_bytes) for tokens, work in _work(run)]
    shared = (RELOAD_FIXED_NS, float(np.mean(reload_ms)))
    one = _one_formula((in_full, on_psi, production), candidates, [tokens for tokens, _ in made])
    published = CostModel(*one, *shared, exp(ONE_SIDED_P99 * sigma) - 1.0, token_bytes, candidates)
    true = MeasuredCost(*one, *shared, P99_SIGMAS * sigma, token_bytes, candidates, production, on_psi, in_full)
    message_ns, spread = _message(relay)
    modes = [mode for mode in (FULL, RELAY, RELAY_DRAM) if any(probe["mode"] == mode for probe in run["probes"])]
    host = {mode: host_work(run, mode, true, at_work) for mode in modes}
    return Measured(published, true, message_ns, spread, host, run["hardware"]["usable_cores"])


def host_work(run: Row, mode: str, true: MeasuredCost, at_work: float) -> HostWork:
    """Processor time beside the devices; `at_work` is how much longer a job at work takes than it computes."""
    rows = [
        (probe["achieved_hz"], _cores(probe) - probe["achieved_hz"] * _device_ms(probe, true, at_work) / 1e3)
        for probe in run["probes"]
        if probe["mode"] == mode and _is_plain(probe)
    ]
    if len({rate_hz for rate_hz, _ in rows}) < 2:
        raise Unmeasured(f"probes of {mode} at two rates at least")
    rates = np.array([[1.0, rate_hz] for rate_hz, _ in rows])
    background, request_s = np.linalg.lstsq(rates, np.array([cores for _, cores in rows]), rcond=None)[0]
    if background < 0.0:
        # Too few rates to tell the two apart.
        background, request_s = 0.0, sum(cores for _, cores in rows) / sum(rate_hz for rate_hz, _ in rows)
    return HostWork(float(background), max(0.0, float(request_s)) * 1e9)


def causal_pairs(new_tokens: float, context_tokens: float) -> float:
    """(query, key) pairs of a causal extend."""
    return new_tokens * context_tokens + new_tokens * (new_tokens + 1) / 2


def is_compared(probe: Row) -> bool:
    """A probe of a rate search that nothing disturbed, and whose mode is simulated."""
    has_purpose = probe["purpose"] in ("search_l0", "search_l1")
    return has_purpose and probe["mode"] in (FULL, RELAY, RELAY_DRAM) and _is_plain(probe)


def _is_plain(probe: Row) -> bool:
    return probe["purpose"] in PLAIN and isinstance(probe["tokens"], int) and not probe["is_disturbed"]


def _calibration(run: Row, mode: str) -> list[Row]:
    found = [one for one in run["probes"] if one["mode"] == mode and one["purpose"] == CALIBRATION]
    found = [one for one in found if not one["is_disturbed"]]
    if len({one["tokens"] for one in found}) < 2:
        raise Unmeasured(f"undisturbed probes of the length search of {mode} at two lengths at least")
    return found


def _work(run: Row) -> list[tuple[str, Row]]:
    if len(run.get("work", {})) < 2:
        raise Unmeasured("the steps of a request timed alone, at two lengths")
    return list(run["work"].items())


def _in_full(tokens: int, candidates: int, delta: float, took_ms: float) -> Point:
    causal = tokens + delta
    return causal + candidates, causal_pairs(causal, 0) + candidates * (causal + 1), took_ms


def _on_psi(tokens: int, candidates: int, delta: float, appended: float, took_ms: float) -> Point:
    """What was appended since is put off to the rank of a returning user, half of the time."""
    causal = delta + appended / 2
    return causal + candidates, causal * tokens + candidates * (tokens + 1), took_ms


def _median(probe: Row, tier: str) -> float:
    return float(probe["stages_ms"][tier]["compute"]["p50"])


def _sigma(stage: Row) -> float:
    return log(stage["p99"] / stage["p50"]) / ONE_SIDED_P99


def _formula(points: Iterable[Point]) -> tuple[float, float, float]:
    """Time by the token and by the pair, least squares on relative error, neither below zero."""
    tokens, pairs, took_ms = np.array(list(points)).T
    rest_ns = took_ms * 1e6 - FIXED_NS
    found = np.zeros(2)
    terms, active = np.stack([tokens, pairs], axis=1) / rest_ns[:, None], [0, 1]
    while active:
        solution = np.linalg.lstsq(terms[:, active], np.ones(len(rest_ns)), rcond=None)[0]
        if (solution >= 0).all():
            found[active] = solution
            break
        active.pop(int(np.argmin(solution)))
    return FIXED_NS, float(found[0]), float(found[1])


def _one_formula(
    formulas: Sequence[tuple[float, float, float]], candidates: int, lengths: Sequence[int]
) -> tuple[float, float, float]:
    """One formula for all three, as calibration fits it."""
    in_full, on_psi, production = formulas
    points: list[Point] = []
    for tokens in lengths:
        seen = candidates * (tokens + 1.0)
        for formula, new, pairs in (
            (in_full, tokens + candidates, causal_pairs(tokens, 0) + seen),
            (on_psi, candidates, seen),
            (production, tokens, causal_pairs(tokens, 0)),
        ):
            points.append((new, pairs, _ns(formula, new, pairs) / 1e6))
    return _formula(points)


def _full_ms(formula: tuple[float, float, float], tokens: int, candidates: int) -> float:
    new, pairs, _ = _in_full(tokens, candidates, 0, 0.0)
    return _ns(formula, new, pairs) / 1e6


def _message(probes: Sequence[Row]) -> tuple[int, float]:
    """Median and spread of one message: their sum has the measured mean, and about the measured P99 over median."""
    stages = [probe["stages_ms"]["ALL"] for probe in probes]
    mean_ms = float(np.mean([sum(stage[name]["mean"] for name in OUTSIDE) for stage in stages])) / MESSAGES
    # A sum of four varies half as much as each.
    spread = 2.0 * float(np.mean([_sigma(stage["hops"]) for stage in stages]))
    return int(mean_ms * 1e6 / exp(spread**2 / 2)), spread


def _cores(probe: Row) -> float:
    return sum(share for name, share in probe["cpu_share"].items() if name not in SERVICES_LEFT_OUT)


def _device_ms(probe: Row, true: MeasuredCost, at_work: float) -> float:
    """Processor time of a request's jobs on average."""
    tiers = [stages["compute"] for tier, stages in probe["stages_ms"].items() if tier != "ALL"]
    ranks_ms = sum(stage["mean"] * stage["count"] for stage in tiers) / probe["requests"]
    counters, sent = probe["counters"], probe["requests"] + probe["warmup"]
    # Without a DRAM tier nothing is looked up; who did not come before makes psi from nothing.
    newcomers = counters.get("lookups", 0) - counters.get("lookup_hits", 0)
    if not newcomers and counters.get("accepted_started"):
        newcomers = sent - sent * probe["returns"] / probe["requests"]
    made_ms = true.extend_ns(probe["tokens"], 0) / 1e6 / at_work
    return ranks_ms + newcomers / sent * made_ms


def _ns(formula: tuple[float, float, float], tokens: float, pairs: float) -> int:
    fixed_ns, token_ns, pair_ns = formula
    return int(fixed_ns + token_ns * tokens + pair_ns * pairs)
