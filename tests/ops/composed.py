"""Compose files, read, filled in and merged as docker compose does it, for the parts of its rules that ours use."""

import re
from typing import Any

import yaml

from scripts.compose_project import BASE, OVERLAYS, ROOT, stacks

__all__ = ["BASE", "OVERLAYS", "ROOT", "SECRET", "STACKS", "filled", "merged", "stacked"]

STACKS = tuple(stacks())
SECRET = "0" * 64
_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?:(?P<how>:?[-?])(?P<more>[^}]*))?\}")
_REPLACED = {"command", "entrypoint", "test"}
"""Lists that a later file replaces; others are added up."""


def filled(part: Any, given: dict[str, str]) -> Any:
    """Variables in strings replaced by their values, or by their defaults; what comes of it stays a string."""
    if isinstance(part, dict):
        return {name: filled(one, given) for name, one in part.items()}
    if isinstance(part, list):
        return [filled(one, given) for one in part]

    def value(found: re.Match[str]) -> str:
        name, how, more = found["name"], found["how"] or "-", found["more"] or ""
        is_there = bool(given.get(name)) if how.startswith(":") else name in given
        if is_there:
            return given[name]
        assert not how.endswith("?"), f"{name}: {more}"
        return more

    return _VARIABLE.sub(value, part) if isinstance(part, str) else part


def merged(below: Any, above: Any, key: str = "") -> Any:
    """A later file over an earlier one."""
    if isinstance(below, dict) and isinstance(above, dict):
        return below | {
            name: merged(below[name], more, name) if name in below else more for name, more in above.items()
        }
    if isinstance(below, list) and isinstance(above, list) and key not in _REPLACED:
        return below + [item for item in above if item not in below]
    return above


def stacked(files: tuple[str, ...], given: dict[str, str] | None = None) -> dict[str, Any]:
    """The services and volumes of some files, the later over the earlier."""
    found: dict[str, Any] = {}
    for name in files:
        read = yaml.safe_load((ROOT / name).read_text())
        parts = {key: part for key, part in read.items() if not key.startswith("x-")}
        found = merged(found, filled(parts, {"TICKET_KEY": SECRET} | (given or {})))
    return found
