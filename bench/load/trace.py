"""Traces as files: one JSON document a line, the first says where the rest comes from.

Any file of this form can be replayed, also one that was recorded elsewhere: times are
nanoseconds from the start, users are numbers, lengths are behaviours.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from bench.load.traffic import PlannedRequest

FORMAT = "relaygr-trace-1"
_FIELDS = {field.name: field.type for field in fields(PlannedRequest)}


def write_trace(path: Path, requests: Sequence[PlannedRequest], about: Mapping[str, Any]) -> None:
    """Write a trace; `about` is kept in its first line."""
    lines = [json.dumps({"format": FORMAT, **about}), *(json.dumps(asdict(request)) for request in requests)]
    path.write_text("\n".join(lines) + "\n")


def read_trace(path: Path, *, speed: float = 1.0) -> list[PlannedRequest]:
    """Read a trace; at another speed its arrivals come closer together, its stages stay as long.

    Raises:
        ValueError: names the line.
    """
    head, *lines = _text(path).splitlines() or [""]
    _check_head(path, head)
    requests = [_request(path, number, line) for number, line in enumerate(lines, 2)]
    if not requests:
        raise ValueError(f"{path}:1: no requests follow")
    for number, (earlier, later) in enumerate(itertools.pairwise(requests), 3):
        if later.arrives_ns < earlier.arrives_ns:
            raise ValueError(f"{path}:{number}: arrives before the request of the line before")
    return [replace(request, arrives_ns=int(request.arrives_ns / speed)) for request in requests]


def _text(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}:{number}: not UTF-8 text: {error.reason}") from error


def _check_head(path: Path, head: str) -> None:
    try:
        found = json.loads(head)["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}:1: not a trace: {error}") from error
    if found != FORMAT:
        raise ValueError(f"{path}:1: format {found!r}, this program reads {FORMAT!r}")


def _request(path: Path, number: int, line: str) -> PlannedRequest:
    try:
        values = json.loads(line)
        request = PlannedRequest(**values)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}:{number}: {error}") from error
    for name, kind in _FIELDS.items():
        value = values[name]
        if isinstance(value, bool) is not (kind == "bool") or not isinstance(value, int) or value < 0:
            raise ValueError(f"{path}:{number}: {name} must be a {kind} of at least 0, is {value!r}")
    return request
