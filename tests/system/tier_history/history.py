"""What happened in a run: each operation with the times of its call and its answer, each damage, each boot.

Every process appends JSON lines to a file of its own, unbuffered, so that kill -9 loses nothing.
Lines with the same operation id are parts of one operation. Times are CLOCK_MONOTONIC, which all
processes of a machine share, nanoseconds.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

HARMLESS = "padding"
"""A kind of injection into bytes that belong to no entry."""
STAMP = "stamp"
"""A kind that changes whose a block is said to be, not its bytes."""


class Version(NamedTuple):
    """What an entry holds, as the tier names it."""

    tokens: int
    chain: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """A store; without `ended_ns` its process died before the answer."""

    user: str
    version: Version
    bytes_hash: str
    invoked_ns: int
    ended_ns: int | None = None
    is_stored: bool = False
    is_refused: bool = False
    """The expander said no, so that it cannot take effect later either."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A lookup that found an entry, and the load of it, which began at `found_ns` or later."""

    user: str
    version: Version
    boot: str
    generation: int
    invoked_ns: int
    found_ns: int
    ended_ns: int | None = None
    is_good: bool = False
    bytes_hash: str = ""
    has_failed_digest: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Forget:
    """A user was forgotten, for sure only when the expander said so."""

    user: str
    invoked_ns: int
    ended_ns: int | None = None
    is_confirmed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """Damage done to one published entry."""

    kind: str
    boot: str
    generation: int
    begun_ns: int
    done_ns: int
    has_changed: bool
    """False when what the entry's owner would read is as before."""
    is_certain: bool = True
    """False when the blocks may have changed hands meanwhile: somebody else's may have been hit."""


_INJECTION_FIELDS = tuple(one.name for one in fields(Injection))


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """An expander's life, which began later than `started_ns`."""

    boot: str
    started_ns: int


@dataclass(slots=True)
class History:
    """Everything of a run, in no order."""

    stores: list[Store] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)
    forgets: list[Forget] = field(default_factory=list)
    injections: list[Injection] = field(default_factory=list)
    boots: list[Boot] = field(default_factory=list)
    misses: int = 0


class Log:
    """One process's part of the history."""

    def __init__(self, path: Path):
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._prefix = path.stem
        self._begun = 0

    def begin(self, operation_kind: str, **facts: Any) -> str:
        """An operation is about to be called; its id."""
        self._begun += 1
        operation = f"{self._prefix}.{self._begun}"
        self.add(operation, operation_kind=operation_kind, invoked_ns=time.monotonic_ns(), **facts)
        return operation

    def add(self, operation: str, **facts: Any) -> None:
        """More of the same operation."""
        os.write(self._fd, json.dumps({"operation": operation, **facts}).encode() + b"\n")

    def end(self, operation: str, **facts: Any) -> None:
        """Its answer is there."""
        self.add(operation, ended_ns=time.monotonic_ns(), **facts)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def read(paths: Iterable[Path]) -> History:
    """All processes' parts as one history."""
    operations: dict[str, dict[str, Any]] = {}
    for path in paths:
        for line in path.read_text().splitlines():
            part = json.loads(line)
            operations.setdefault(part.pop("operation"), {}).update(part)
    history = History()
    for facts in operations.values():
        _take(history, facts)
    return history


def _take(history: History, facts: dict[str, Any]) -> None:
    if "version" in facts:
        facts["version"] = Version(*facts["version"])
    match facts.pop("operation_kind"):
        case "store":
            history.stores.append(Store(**facts))
        case "load" if "found_ns" in facts:
            history.loads.append(Load(**facts))
        case "load":
            history.misses += "ended_ns" in facts
        case "forget":
            history.forgets.append(Forget(**facts))
        case "injection":
            history.injections.append(Injection(**{name: facts[name] for name in _INJECTION_FIELDS}))
        case "boot":
            history.boots.append(Boot(boot=facts["boot"], started_ns=facts["started_ns"]))
        case other:
            raise ValueError(f"not a kind of operation: {other}")
