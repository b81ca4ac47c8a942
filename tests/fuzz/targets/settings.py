"""Settings: environments of the four services, profiles as TOML, cost models as JSON.

An input is a line that says what it is for, and then the environment as JSON, or the file.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

from bench.load.profile import PROFILES, load_profile
from relaygr.config import ConfigError, describe, load, variable_of
from relaygr.plan.demand import PlanError
from relaygr.plan.device import EXAMPLES, device_of
from services.expander.config import ExpanderConfig
from services.ranker.config import RankerConfig
from services.router.config import RouterConfig
from services.trigger.config import TriggerConfig
from tests.fuzz import raw
from tests.fuzz.subject import Subject, choose
from tests.fuzz.verdict import ACCEPTED, Verdict, rejected, without_field

CLASSES: dict[str, Any] = {
    "trigger": TriggerConfig,
    "router": RouterConfig,
    "ranker": RankerConfig,
    "expander": ExpanderConfig,
}
WORDS = (
    "true",
    "0",
    "no",
    "",
    "1",
    "-1",
    "0.5",
    "nan",
    "inf",
    "-inf",
    "1e308",
    "1e400",
    "9" * 5_000,
    "0x10",
    " 7 ",
    "1_0",
)
WORDS += ("00ff" * 8, "zz", "a,b", ",", "é", "cpu", "cuda:9999", "int8", "float32", "1" * 25, "4096", "1e-320")


class Settings(Subject):
    """What a process is started with."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._profile = (PROFILES / "default.toml").read_text()
        self._devices = [path.read_text() for path in sorted(EXAMPLES.glob("*.json"))]

    def draw(self, random: Random) -> bytes:
        kind = choose(random, *((4, name) for name in CLASSES), (3, "profile"), (2, "plan"))
        if kind == "profile":
            return b"profile\n" + _toml(random, self._profile)
        if kind == "plan":
            return b"plan\n" + raw.json_bytes(random, json.loads(random.choice(self._devices)))
        return f"{kind}\n{json.dumps(_environment(random, kind))}".encode()

    async def give(self, data: bytes) -> Verdict:
        head, _, written = data.partition(b"\n")
        kind = head.decode("ascii", "replace")
        if kind in CLASSES:
            return _loaded(kind, written)
        path = self._directory / f"given.{'toml' if kind == 'profile' else 'json'}"
        path.write_bytes(written)
        try:
            if kind == "profile":
                load_profile(str(path)).to_json()
            elif kind == "plan":
                device_of(str(path))
        except PlanError as error:
            return rejected(error) if str(error) else without_field("a cost model without a reason")
        except ValueError as error:
            return (
                rejected(error)
                if kind == "profile" and str(path) in str(error)
                else without_field(f"{kind}: {type(error).__name__} without the file's name")
            )
        return ACCEPTED


def _loaded(kind: str, written: bytes) -> Verdict:
    try:
        given = json.loads(written)
        environment = {str(name): str(value) for name, value in given.items()}
    except (ValueError, AttributeError):
        return rejected("no environment")
    prefix = f"RELAYGR_{kind.upper()}"
    try:
        config = load(CLASSES[kind], prefix, environment)
    except ConfigError as error:
        return rejected(error) if prefix in str(error) else without_field(f"{kind} without a variable")
    json.dumps(describe(config))
    for name in ("rules", "geometry", "limits", "transfer_limits", "margin_ns", "warm_up_ns", "spill_floor_ns"):
        getattr(config, name, None)
    return ACCEPTED


def _environment(random: Random, kind: str) -> dict[str, str]:
    prefix = f"RELAYGR_{kind.upper()}"
    fields = dataclasses.fields(CLASSES[kind])
    required = {"ticket_key": "00" * 16, "model": "somewhere"}
    found = {variable_of(prefix, one.name): required[one.name] for one in fields if one.name in required}
    for _ in range(random.choice((0, 1, 1, 1, 2, 4))):
        found[variable_of(prefix, random.choice(fields).name)] = _word(random)
    if random.random() < 0.05:
        found[f"{prefix}_{raw.text(random)}"] = "1"
    if random.random() < 0.05 and found:
        del found[random.choice(list(found))]
    return found


def _word(random: Random) -> str:
    if random.random() < 0.3:
        return str(random.choice(raw.WHOLE + raw.REAL))
    return random.choice(WORDS) if random.random() < 0.8 else raw.text(random)


def _toml(random: Random, text: str) -> bytes:
    lines = text.splitlines()
    for _ in range(random.choice((0, 1, 1, 2))):
        at = random.randrange(len(lines))
        name, equals, _ = lines[at].partition(" = ")
        if equals:
            value = random.choice(
                ("0", "-1", "1", "0.5", "nan", "inf", '"x"', "[]", "true", "1e400", "9" * 400, "{}", "1979-05-27")
            )
            lines[at] = f"{name} = {value}"
    written = "\n".join(lines).encode()
    share = random.random()
    if share < 0.15:
        return raw.lines(random, written)
    return raw.mutated(random, written) if share < 0.3 else written


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Subject]:
    yield Settings(directory)
