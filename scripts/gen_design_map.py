"""Write docs/design-map.md: where each rule of docs/DESIGN.md is held, and by which test. Or check it.

    python scripts/gen_design_map.py            write the map
    python scripts/gen_design_map.py --check    fail when the map is stale or a rule is not held

Rules and their tests come from tests/design/rules.toml, modules from there and from the
"Source: design, section N (...), invariant IK." lines of docstrings. Test names are read out of
the sources; nothing is imported or run.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DESIGN = Path("docs/DESIGN.md")
RULES = Path("tests/design/rules.toml")
TARGET = Path("docs/design-map.md")
PACKAGES = ("relaygr", "services", "trainer", "console", "demo", "bench")
SOURCE = re.compile(r"^Source: design, (.+?)(?:\n\s*\n|\nSource:|\Z)", re.MULTILINE | re.DOTALL)
REQUIRED = {"I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8", *(f"condition {number}" for number in range(1, 5))}
REQUIRED |= {"error", "the check can fail"}


@dataclass(frozen=True)
class Rule:
    """One claim or invariant of the design."""

    id: str
    section: int
    says: str
    modules: tuple[str, ...]
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """What one module says about where it comes from."""

    module: str
    sections: tuple[int, ...]
    rules: tuple[str, ...]
    """Invariants and conditions that it names."""


def rules_of(text: str) -> list[Rule]:
    """Parse the registry.

    Raises:
        ValueError: names the rule.
    """
    found = []
    for raw in tomllib.loads(text)["rule"]:
        unknown = raw.keys() ^ set(Rule.__dataclass_fields__)
        if unknown:
            raise ValueError(f"{raw.get('id', raw)}: lacks or does not know {', '.join(sorted(unknown))}")
        found.append(Rule(raw["id"], raw["section"], raw["says"], tuple(raw["modules"]), tuple(raw["tests"])))
    ids = [rule.id for rule in found]
    twice = sorted({one for one in ids if ids.count(one) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)}: named twice")
    return found


def sources(root: Path) -> list[Source]:
    """Every module with a Source line that names the design, in order of path."""
    found = []
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            if path.is_relative_to(root / "relaygr" / "v1"):
                continue
            text = path.read_text(encoding="utf-8")
            said = " ".join(_said(ast.parse(text))) if "Source: design" in text else ""
            if said:
                found.append(source_of(str(path.relative_to(root)), said))
    return found


def source_of(module: str, said: str) -> Source:
    """Read the sections, invariants and conditions that a Source line names."""
    sections = {int(digit) for part in re.findall(r"sections? ((?:\d(?:, | and )?)+)", said) for digit in _digits(part)}
    conditions = {digit for part in re.findall(r"conditions? ((?:\d(?:, | and )?)+)", said) for digit in _digits(part)}
    invariants = set(re.findall(r"\bI\d\b", said))
    rules = sorted(invariants) + [f"condition {digit}" for digit in sorted(conditions)]
    return Source(module, tuple(sorted(sections)), tuple(rules))


def _said(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from SOURCE.findall(ast.get_docstring(node) or "")


def _digits(text: str) -> list[str]:
    return re.findall(r"\d", text)


@cache
def tests_in(text: str) -> frozenset[str]:
    """Names of the tests that a file defines: functions, methods (Class::name), and classes as a whole."""
    found: set[str] = set()
    for node in ast.parse(text).body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if name.startswith("test_"):
                found.add(name)
            case ast.ClassDef(name=name) if name.startswith("Test"):
                methods = {f"{name}::{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
                found |= {name, *(method for method in methods if "::test_" in method)}
            # A Hypothesis state machine: TestRelays = Relays.TestCase
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Attribute(attr="TestCase")):
                found.add(name)
            case _:
                pass
    return frozenset(found)


def modules_of(rule: Rule, said: list[Source]) -> list[str]:
    """Modules that hold a rule: those listed and those that say so."""
    return sorted({*rule.modules, *(source.module for source in said if rule.id in source.rules)})


def sections_of(design: str) -> dict[int, str]:
    """Titles of the design's numbered sections."""
    return {int(number): title for number, title in re.findall(r"^## (\d)\. (.+)$", design, re.MULTILINE)}


def problems(root: Path, rules: list[Rule], said: list[Source], titles: dict[int, str]) -> list[str]:
    """What is wrong with the registry or the Source lines."""
    known = {rule.id for rule in rules}
    found = [f"{RULES}: no rule {missing}" for missing in sorted(REQUIRED - known)]
    for rule in rules:
        modules = modules_of(rule, said)
        found += [f"{rule.id}: no module holds it"] * (not modules) + [f"{rule.id}: no test proves it"] * (
            not rule.tests
        )
        found += [f"{rule.id}: no section {rule.section}"] * (rule.section not in titles)
        found += [f"{rule.id}: {module} is not there" for module in modules if not (root / module).is_file()]
        found += [f"{rule.id}: {test} is not there" for test in rule.tests if not _exists(root, test)]
    for source in said:
        strangers = [name for name in source.rules if name not in known]
        strangers += [f"section {number}" for number in source.sections if number not in titles]
        found += [f"{source.module}: its Source line names {name}" for name in strangers]
        found += [f"{source.module}: its Source line names no section"] * (not source.sections)
    return found


def _exists(root: Path, test: str) -> bool:
    file, _, name = test.partition("::")
    return (root / file).is_file() and name in tests_in((root / file).read_text(encoding="utf-8"))


def render(rules: list[Rule], said: list[Source], titles: dict[int, str]) -> str:
    """The map's text."""
    lines = [
        "# Where the design is held",
        "",
        f"Written by `scripts/gen_design_map.py` from `{RULES}` and the Source lines of docstrings; do not edit.",
        "For each rule of [the design](DESIGN.md): the modules that hold it and the tests that prove it.",
    ]
    for number, title in sorted(titles.items()):
        of_section = [rule for rule in rules if rule.section == number]
        modules = [source.module for source in said if number in source.sections]
        if not of_section and not modules:
            continue
        lines += ["", f"## {number}. {title}", ""]
        if of_section:
            lines += ["| rule | says | held in | proved by |", "| --- | --- | --- | --- |"]
            lines += [_row(rule, modules_of(rule, said)) for rule in of_section]
        if modules:
            lines += [""] * bool(of_section) + [f"Modules that refer to it: {', '.join(map(_module, modules))}."]
    return "\n".join(lines) + "\n"


def _row(rule: Rule, modules: list[str]) -> str:
    says = rule.says.replace("|", "\\|")
    return f"| {rule.id} | {says} | {_cell(map(_module, modules))} | {_cell(map(_test, rule.tests))} |"


def _cell(links: Iterator[str]) -> str:
    return "<br>".join(links)


def _module(path: str) -> str:
    return f"[{path}](../{path})"


def _test(test: str) -> str:
    file, _, name = test.partition("::")
    return f"[{Path(file).stem}::{name}](../{file})"


def main() -> int:
    """Write the map, or check it; 1 when something is wrong."""
    parser = argparse.ArgumentParser(description="The map from the design's rules to modules and tests.")
    parser.add_argument("--check", action="store_true", help="write nothing, fail when the map is stale")
    is_check = parser.parse_args().check
    try:
        rules = rules_of((ROOT / RULES).read_text(encoding="utf-8"))
    except ValueError as error:
        print(f"{RULES}: {error}", file=sys.stderr)
        return 1
    said, titles = sources(ROOT), sections_of((ROOT / DESIGN).read_text(encoding="utf-8"))
    found = problems(ROOT, rules, said, titles)
    text, target = render(rules, said, titles), ROOT / TARGET
    if is_check and (not target.exists() or target.read_text(encoding="utf-8") != text):
        found.append(f"{TARGET} is stale, run `make docs`")
    if not is_check:
        target.write_text(text, encoding="utf-8")
    for line in found:
        print(line, file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
