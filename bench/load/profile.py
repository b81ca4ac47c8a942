"""What a run measures: budgets, traffic, deployment and model, from a committed file.

Everything that could be turned after a disappointing figure stands there, so that it can be
seen to stand before the first one.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PROFILES = Path(__file__).with_name("profiles")


@dataclass(frozen=True, kw_only=True)
class Slo:
    """When a rate holds: at the quantile both budgets, and no errors."""

    rank_ms: float
    end_to_end_ms: float
    quantile: float


@dataclass(frozen=True, kw_only=True)
class Stages:
    """Retrieval and pre-processing of one request."""

    retrieval_ms: float
    pre_processing_ms: float
    spread: float
    """Standard deviation as a share of the mean."""


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Who asks when."""

    arrivals: str
    burst_factor: float
    burst_share: float
    burst_s: float
    candidates: int
    return_share: float
    return_gap_s: float
    return_gap_spread: float
    return_gap_least_s: float
    visits_most: int
    append_mean: float
    append_most: int
    delta_most: int
    requests: int
    warmup_s: float

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        assert self.arrivals in ("poisson", "bursty"), "arrivals must be poisson or bursty"
        assert 0 <= self.return_share < 1, "return_share must be in [0, 1)"
        assert 0 < self.burst_share < 1 <= self.burst_factor < 1 / self.burst_share, "bursts must leave some rest"
        assert self.append_mean >= 1 and self.append_most >= 1, "append_mean and append_most must be at least 1"
        assert self.requests >= 1, "requests must be positive"


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Lengths of the mixed sweep, log-normal, tokens."""

    median_tokens: int
    spread: float
    most_tokens: int
    least_tokens: int


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """Processes and their budgets."""

    rankers: int
    threads: int
    device_budget_mb: int
    dram_budget_mb: int
    rank_timeout_ms: float
    rank_latest_ms: float
    pre_infer_share: float
    footprint_share: float


@dataclass(frozen=True, kw_only=True)
class Model:
    """Sizes by name (bench.engine.shapes), and the histories it reads."""

    shape: str
    dtype: str
    users: int
    behaviours: int
    """Of each user."""
    seed: int


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A whole profile."""

    name: str
    slo: Slo
    stages: Stages
    traffic: Traffic
    lengths: Lengths
    deployment: Deployment
    model: Model

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


_SECTIONS = {
    "slo": Slo,
    "stages": Stages,
    "traffic": Traffic,
    "lengths": Lengths,
    "deployment": Deployment,
    "model": Model,
}


def load_profile(name: str) -> Profile:
    """A committed profile by name, or any file by path.

    Raises:
        ValueError: a section or value is missing, unknown or impossible; the text says which.
    """
    path = Path(name) if name.endswith(".toml") else PROFILES / f"{name}.toml"
    try:
        return profile_of(path.stem, tomllib.loads(path.read_text()))
    except (OSError, ValueError, TypeError, AssertionError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error


def profile_of(name: str, values: Mapping[str, Any]) -> Profile:
    """A profile from its sections."""
    if values.keys() != _SECTIONS.keys():
        raise TypeError(f"sections must be {', '.join(_SECTIONS)}, not {', '.join(values)}")
    return Profile(name=name, **{section: kind(**values[section]) for section, kind in _SECTIONS.items()})
