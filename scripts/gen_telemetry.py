"""Generate relaygr/telemetry/names.py from ops/telemetry.yaml, or check its use.

    python scripts/gen_telemetry.py            write names.py
    python scripts/gen_telemetry.py --check    fail on names declared but not used, or used but not declared

A name is used when its constant appears in the source; a "relaygr." name written out as a
literal string is an offence, declared or not.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
REGISTRY = ROOT / "ops" / "telemetry.yaml"
TARGET = ROOT / "relaygr" / "telemetry" / "names.py"
SOURCES = ("relaygr", "services", "console", "demo")

KINDS = {"attributes": "ATTR", "spans": "SPAN", "metrics": "METRIC"}
REQUIRED = {"attributes": {"type"}, "spans": set(), "metrics": {"instrument", "unit"}}
OPTIONAL: dict[str, set[str]] = {"attributes": set(), "spans": set(), "metrics": {"attributes", "zero", "must_be_zero"}}
INSTRUMENTS = {"counter", "updowncounter", "histogram", "gauge"}
TYPES = {"string", "int", "double", "boolean"}
CONSTANT = re.compile(r"(ATTR|SPAN|METRIC)_[A-Z0-9_]+")
NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")


@dataclass(frozen=True)
class Entry:
    """One declared name."""

    kind: str
    name: str
    fields: dict[str, Any]
    emitted_by: tuple[str, ...]

    @property
    def constant(self) -> str:
        """Name of the constant: relaygr.rank.tier -> ATTR_RANK_TIER."""
        return f"{KINDS[self.kind]}_{self.name.removeprefix('relaygr.').replace('.', '_').upper()}"

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the attributes that a metric is recorded with."""
        return tuple(self.fields.get("attributes", ()))

    @property
    def must_be_zero(self) -> tuple[str, ...]:
        """Values of its one attribute whose points must stay zero."""
        return tuple(self.fields.get("must_be_zero", ()))

    @property
    def may_be_zero(self) -> bool:
        """True when a healthy cluster under load need not show anything else."""
        return self.fields.get("zero") == "may"


def entries_of(text: str) -> list[Entry]:
    """Parse and validate the registry.

    Raises:
        ValueError: names the entry.
    """
    found: list[Entry] = []
    seen: dict[str, str] = {}
    for section, kinds in yaml.safe_load(text).items():
        for kind, named in kinds.items():
            if kind not in KINDS:
                raise ValueError(f"{section}: unknown kind {kind}")
            for name, fields in (named or {}).items():
                entry = Entry(kind, name, fields, tuple(fields.get("emitted_by", (section,))))
                _validate(entry)
                if entry.constant in seen:
                    raise ValueError(f"{name}: {entry.constant} is declared by {seen[entry.constant]} already")
                seen[entry.constant] = name
                found.append(entry)
    _check_attributes(found)
    return found


def _validate(entry: Entry) -> None:
    if not NAME.fullmatch(entry.name):
        raise ValueError(f"{entry.name}: not a dotted lower-case name")
    missing = (REQUIRED[entry.kind] | {"meaning"}) - entry.fields.keys()
    if missing:
        raise ValueError(f"{entry.name}: lacks {', '.join(sorted(missing))}")
    unknown = entry.fields.keys() - REQUIRED[entry.kind] - OPTIONAL[entry.kind] - {"meaning", "emitted_by"}
    if unknown:
        raise ValueError(f"{entry.name}: unknown {', '.join(sorted(unknown))}")
    if entry.kind == "metrics" and entry.fields["instrument"] not in INSTRUMENTS:
        raise ValueError(f"{entry.name}: instrument must be one of {', '.join(sorted(INSTRUMENTS))}")
    if entry.kind == "attributes" and entry.fields["type"] not in TYPES:
        raise ValueError(f"{entry.name}: type must be one of {', '.join(sorted(TYPES))}")


def _check_attributes(entries: list[Entry]) -> None:
    """Raise ValueError for a metric whose attributes are not declared, or whose zeros cannot be told apart."""
    declared = {entry.name for entry in entries if entry.kind == "attributes"}
    for entry in entries:
        strangers = set(entry.attributes) - declared
        if strangers:
            raise ValueError(f"{entry.name}: attributes {', '.join(sorted(strangers))} are not declared")
        if entry.must_be_zero and len(entry.attributes) != 1:
            raise ValueError(f"{entry.name}: must_be_zero needs exactly one attribute")
        if entry.fields.get("zero", "may") != "may":
            raise ValueError(f"{entry.name}: zero must be may")


def render(entries: list[Entry]) -> str:
    """The text of names.py."""
    lines = [
        '"""Names of spans, attributes and metrics.',
        "",
        "Generated from ops/telemetry.yaml by scripts/gen_telemetry.py; do not edit.",
        '"""',
        "",
        "from typing import Final",
        "",
    ]
    for entry in entries:
        lines.append(f"{entry.constant}: Final = {entry.name!r}")
        lines.append(f'"""{entry.fields["meaning"]}"""')
    lines += ["", "INSTRUMENTS: Final[dict[str, tuple[str, str, str]]] = {"]
    for entry in entries:
        if entry.kind == "metrics":
            parts = (entry.fields["instrument"], entry.fields["unit"], entry.fields["meaning"])
            lines.append(f"    {entry.constant}: {parts!r},")
    lines += ["}", '"""Instrument, unit and meaning of each metric."""', ""]
    return "\n".join([*lines, *_contract(entries)])


def _contract(entries: list[Entry]) -> list[str]:
    """What a running system is held to: attributes of metrics, who emits what, what is never or may be zero."""
    metrics = [entry for entry in entries if entry.kind == "metrics"]
    constants = {entry.name: entry.constant for entry in entries}
    lines = ["ATTRIBUTES: Final[dict[str, frozenset[str]]] = {"]
    for entry in metrics:
        keys = ", ".join(constants[name] for name in entry.attributes)
        lines.append(f"    {entry.constant}: frozenset(({keys}{',' if keys else ''})),")
    lines += ["}", '"""Attributes that a metric is recorded with."""', ""]
    lines.append("EMITTED_BY: Final[dict[str, tuple[str, ...]]] = {")
    lines += [f"    {entry.constant}: {entry.emitted_by!r}," for entry in entries if entry.kind != "attributes"]
    lines += ["}", '"""Services that emit each span and metric; each of them must."""', ""]
    lines.append("MUST_BE_ZERO: Final[dict[str, tuple[str, ...]]] = {")
    lines += [f"    {entry.constant}: {entry.must_be_zero!r}," for entry in metrics if entry.must_be_zero]
    lines += [
        "}",
        '"""Values of a metric\'s one attribute whose points point at a bug whenever they are not zero."""',
        "",
    ]
    listed = "".join(f"{entry.constant}, " for entry in metrics if entry.may_be_zero)
    lines += [f"MAY_BE_ZERO: Final[frozenset[str]] = frozenset(({listed}))"]
    lines += ['"""Metrics of which a healthy cluster under load need not show anything but zero."""', ""]
    return lines


def python_files() -> Iterator[Path]:
    """Sources that may use names; generated ones left out."""
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path != TARGET and not path.is_relative_to(ROOT / "relaygr" / "v1"):
                yield path


@dataclass
class Uses:
    """What one module does with names."""

    constants: set[str]
    """Identifiers of any kind, constants among them."""
    asked_of_names: set[str]
    """Attributes of something called `names`."""
    literals: list[tuple[int, str]]
    """Line and text of "relaygr." names written out."""


def scan(tree: ast.AST) -> Uses:
    """Walk one module."""
    uses = Uses(set(), set(), [])
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="names"), attr=name):
                uses.constants.add(name)
                uses.asked_of_names.add(name)
            case ast.Attribute(attr=name) | ast.Name(id=name):
                uses.constants.add(name)
            case ast.Constant(value=str(text)) if text.startswith("relaygr.") and NAME.fullmatch(text):
                if not is_module(text):
                    uses.literals.append((node.lineno, text))
            case _:
                pass
    return uses


def is_module(dotted: str) -> bool:
    """True for names of our own packages, as loggers and imports use them."""
    path = ROOT.joinpath(*dotted.split("."))
    return dotted.startswith("relaygr.v1") or path.is_dir() or path.with_suffix(".py").is_file()


def offences(entries: list[Entry]) -> list[str]:
    """What --check complains about."""
    found: list[str] = []
    used: set[str] = set()
    declared = {entry.constant for entry in entries}
    names = {entry.name: entry.constant for entry in entries}
    for path in python_files():
        where = path.relative_to(ROOT)
        uses = scan(ast.parse(path.read_text(encoding="utf-8"), str(path)))
        used |= uses.constants
        strangers = {name for name in uses.asked_of_names - declared if CONSTANT.fullmatch(name)}
        found += [f"{where}: names.{name} is not declared" for name in sorted(strangers)]
        for line, text in uses.literals:
            hint = f"write names.{names[text]}" if text in names else "not declared"
            found.append(f"{where}:{line}: literal {text!r}: {hint}")
    unused = [entry for entry in entries if entry.constant not in used]
    return found + [f"{REGISTRY.name}: {entry.name} ({entry.constant}) is not used" for entry in unused]


def main() -> int:
    """Generate, or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare the registry with the source, write nothing")
    arguments = parser.parse_args()
    try:
        entries = entries_of(REGISTRY.read_text(encoding="utf-8"))
    except ValueError as error:
        print(f"{REGISTRY.name}: {error}", file=sys.stderr)
        return 1
    if not arguments.check:
        TARGET.write_text(render(entries), encoding="utf-8")
        return 0
    found = offences(entries)
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
