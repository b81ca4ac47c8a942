"""What run.json holds. Everything may be missing: a run may be of some modes only, or interrupted."""

from __future__ import annotations

from typing import Any, TypedDict

FULL, RELAY, RELAY_DRAM = "full", "relay", "relay_dram"
MODES = (FULL, RELAY, RELAY_DRAM, "no_trigger", "no_affinity", "ring_hash", "remote_pool")
ABLATIONS = tuple(mode for mode in MODES if mode not in (FULL, RELAY_DRAM))
RATE, LENGTH = "rate", "length"
LOSSES = ("cold", "short", "overload")
"""Purposes of probes of what a relay does not help with."""

Percentiles = TypedDict(
    "Percentiles", {"p50": float, "p99": float, "p99.9": float, "max": float, "mean": float, "count": int}, total=False
)
"""Milliseconds, but for the count."""


class Objective(TypedDict, total=False):
    """The service-level objective: at the quantile, both limits."""

    rank_ms: float
    end_to_end_ms: float
    quantile: float


class Config(TypedDict, total=False):
    """The profile; more keys may stand in it, and are shown."""

    slo: Objective
    rankers: int
    threads: int
    """Of each ranker's device."""
    return_share: float
    """Of the requests, those of users who came before and whose psi may be reused."""
    reload_share: float
    """Of the requests, those that reload psi from DRAM."""
    candidates: int
    seed: int


class Lengths(TypedDict, total=False):
    """Histories that are measured."""

    l0_tokens: int
    """Full inference alone still holds the limit."""
    l1_tokens: int
    full_alone_ms: list[list[float]]
    """[tokens, median ms], nothing else running."""


class Work(TypedDict, total=False):
    """Device time of each job at one length, measured alone, ms."""

    full_ms: float
    pre_infer_ms: float
    append_ms: float
    reload_ms: float
    rank_ms: float


class Noise(TypedDict, total=False):
    """What else ran on the machine."""

    idle_probe: dict[str, Any]
    steal_share: float
    disturbed_probes: int
    is_too_noisy: bool


class Probe(TypedDict, total=False):
    """One mode at one length at one rate."""

    mode: str
    tokens: int
    rate_hz: float
    purpose: str
    seed: int
    requests: int
    """Counted, without the warm-up."""
    warmup: int
    seconds: float
    achieved_hz: float
    errors: dict[str, int]
    rank_ms: Percentiles
    end_to_end_ms: Percentiles
    late: int
    end_to_end_late: int
    held: bool
    is_disturbed: bool
    noise: dict[str, Any]
    tiers: dict[str, int]
    decisions: dict[str, int]
    fallbacks: dict[str, int]
    branches: dict[str, int]
    stages_ms: dict[str, dict[str, Percentiles]]
    """Tier, or ALL -> stage -> milliseconds."""
    overhead_ms: Percentiles
    cpu_share: dict[str, float]
    """Process -> cores that it used."""
    admitted: int
    survived: int
    """Of the admitted, psi was there when the rank came."""
    returns: int
    reused: int
    """Of the returns, psi was not computed again."""
    production: dict[str, int]


class Search(TypedDict, total=False):
    """What a search found; value, low and high are requests/s, or tokens."""

    mode: str
    kind: str
    at_tokens: int
    at_rate_hz: float
    value: float | None
    crossing: float | None
    low: float | None
    high: float | None
    probes: int
    is_bounded: bool
    failed_probe_rates: list[float]
    """Positions of the probes that missed."""


class Run(TypedDict, total=False):
    """The document."""

    config: Config
    hardware: dict[str, Any]
    source: dict[str, Any]
    versions: dict[str, str]
    date: str
    command: str
    seconds: float
    lengths: Lengths
    work: dict[str, Work]
    noise: Noise
    probes: list[Probe]
    searches: list[Search]
