"""Scenarios as text: how many of what, traffic by phases, and what goes wrong when; read from `sim/scenarios/*.toml`.

    what = "One sentence."
    instances = 8                   # 4 on a host, unless instances_per_host says otherwise
    rate_hz = 40.0                  # a second and instance, at rate 1
    seed = 1

    [users]                         # all optional
    count = 1000000
    zipf = 0.9                      # 0: visits and gaps as in the load profile

    [[phases]]
    name = "crowd"
    seconds = 4.0
    rate = 3.0                      # times rate_hz
    is_measured = true              # false: warming up, shown but not compared with

    [[faults]]
    at = "crowd"                    # the phase at whose begin
    kind = "lose_tenth"             # see sim.mishaps
    seconds = 3.0                   # 0: it does not end

Source: design, section 3.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, replace
from pathlib import Path
from typing import Any

from bench.load.profile import load_profile
from sim.mishaps import KINDS
from sim.settings import MIB, Settings

SCENARIOS = Path(__file__).with_name("scenarios")
_NUMBERS = (int, float)


class ScenarioError(ValueError):
    """A scenario cannot be read; the text says where and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A stretch of time at one rate."""

    name: str
    seconds: float
    rate: float = 1.0
    is_measured: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Mishap:
    """Something that goes wrong at the begin of a phase, and for how long."""

    at: str
    kind: str
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Users:
    """Who asks."""

    count: int = 10_000_000
    zipf: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One scenario as written."""

    name: str
    what: str
    instances: int
    rate_hz: float
    phases: tuple[Phase, ...]
    faults: tuple[Mishap, ...] = ()
    users: Users = Users()
    seed: int = 1
    instances_per_host: int = 4
    triggers: int = 1
    routers: int = 1
    arrivals: str = "poisson"
    device_budget_mib: int = 256
    dram_budget_mib: int = 2048
    ablation: str = ""

    @property
    def begins_s(self) -> dict[str, float]:
        """When each phase begins."""
        begins, at_s = {}, 0.0
        for phase in self.phases:
            begins[phase.name] = at_s
            at_s += phase.seconds
        return begins

    @property
    def seconds(self) -> float:
        """Of all phases."""
        return sum(phase.seconds for phase in self.phases)

    def settings(self, *, is_full: bool = False) -> Settings:
        """What the simulator is to run; `is_full`: every invariant is checked after every event, ten times slower."""
        profile = load_profile("default")
        return Settings(
            seed=self.seed,
            instances=self.instances,
            instances_per_host=self.instances_per_host,
            rate_hz=self.rate_hz * self.instances,
            seconds=self.seconds,
            phases=tuple((phase.seconds, phase.rate) for phase in self.phases),
            triggers=self.triggers,
            routers=self.routers,
            users=self.users.count,
            zipf=self.users.zipf,
            device_budget_bytes=self.device_budget_mib * MIB,
            dram_budget_bytes=self.dram_budget_mib * MIB,
            ablation=self.ablation,
            has_dram=self.ablation not in ("no_dram", "remote_pool"),
            profile=replace(profile, traffic=replace(profile.traffic, arrivals=self.arrivals)),
            checks="full" if is_full else "some",
        )


def names() -> list[str]:
    """Of all scenarios, in order."""
    return sorted(path.stem for path in SCENARIOS.glob("*.toml"))


def read(name: str) -> Scenario:
    """A committed scenario by name, or any file by its path.

    Raises:
        ScenarioError: there is none, or it says something impossible.
    """
    path = Path(name) if name.endswith(".toml") else SCENARIOS / f"{name}.toml"
    try:
        return scenario_of(path.stem, tomllib.loads(path.read_text()))
    except FileNotFoundError:
        raise ScenarioError(f"{name}: there is no such scenario; there are {', '.join(names())}") from None
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{path.name}: not TOML: {error}") from None
    except ScenarioError as error:
        raise ScenarioError(f"{path.name}: {error}") from None


def scenario_of(name: str, values: Mapping[str, Any]) -> Scenario:
    """A scenario from its values.

    Raises:
        ScenarioError: see `read`; the text names the key.
    """
    given = dict(values)
    phases = tuple(_filled(Phase, f"phases[{at}]", each) for at, each in enumerate(_list(given, "phases")))
    faults = tuple(_filled(Mishap, f"faults[{at}]", each) for at, each in enumerate(_list(given, "faults")))
    users = _filled(Users, "users", given.pop("users", {}))
    made: Scenario = _filled(Scenario, "", given, name=name, phases=phases, faults=faults, users=users)
    _hold(made)
    return made


def _list(given: dict[str, Any], key: str) -> list[Any]:
    found = given.pop(key, [])
    if not isinstance(found, list):
        raise ScenarioError(f"{key}: write [[{key}]] above each of them")
    return found


def _filled(kind: type[Any], where: str, values: object, **made: Any) -> Any:
    """A dataclass from a table: every key known, every value of its kind, none missing."""
    if not isinstance(values, Mapping):
        raise ScenarioError(f"{where}: must be a table")
    place = f"{where}." if where else ""
    fields = {name: field for name, field in kind.__dataclass_fields__.items() if name not in made}
    for key, value in values.items():
        if key not in fields:
            raise ScenarioError(f"{place}{key}: unknown; known are {', '.join(fields)}")
        _hold_kind(f"{place}{key}", fields[key].type, value)
    for key, field in fields.items():
        if key not in values and field.default is MISSING:
            raise ScenarioError(f"{place}{key}: missing")
    return kind(**values, **made)


def _hold_kind(where: str, kind: str, value: Any) -> None:
    number: Any = value
    wanted = {"str": (str,), "int": (int,), "float": _NUMBERS, "bool": (bool,)}[kind]
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind != "bool"):
        raise ScenarioError(f"{where}: must be {kind}, not {value!r}")
    if kind in ("int", "float") and number < 0:
        raise ScenarioError(f"{where}: must not be negative")


def _hold(scenario: Scenario) -> None:
    """Hold what concerns more than one value."""
    if scenario.instances < 2 or scenario.rate_hz <= 0:
        raise ScenarioError("instances and rate_hz: at least two instances, and some traffic")
    if scenario.arrivals not in ("poisson", "bursty"):
        raise ScenarioError(f"arrivals: poisson or bursty, not {scenario.arrivals!r}")
    phase_names = [phase.name for phase in scenario.phases]
    if not phase_names:
        raise ScenarioError("phases: missing")
    for name in phase_names:
        if phase_names.count(name) > 1:
            raise ScenarioError(f"phases: two are named {name!r}")
    for at, phase in enumerate(scenario.phases):
        if phase.seconds < 1.0:
            raise ScenarioError(f"phases[{at}].seconds: at least 1")
    for at, mishap in enumerate(scenario.faults):
        if mishap.kind not in KINDS:
            raise ScenarioError(f"faults[{at}].kind: {mishap.kind!r} is unknown; known are {', '.join(KINDS)}")
        if mishap.at not in phase_names:
            raise ScenarioError(f"faults[{at}].at: no phase is named {mishap.at!r}")
