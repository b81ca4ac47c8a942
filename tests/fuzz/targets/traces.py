"""Traces of requests, as the benchmark replays them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from random import Random

from bench.load.trace import FORMAT, read_trace
from bench.load.traffic import PlannedRequest
from tests.fuzz import raw
from tests.fuzz.subject import Subject
from tests.fuzz.verdict import ACCEPTED, Verdict, rejected, without_field

REQUEST = PlannedRequest(
    index=0,
    user=3,
    arrives_ns=10,
    retrieval_ns=20_000_000,
    pre_processing_ns=10_000_000,
    behaviours=100,
    delta=2,
    candidates=50,
    visit=0,
    is_counted=True,
)


class Traces(Subject):
    """Files with a request a line."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def draw(self, random: Random) -> bytes:
        lines = [json.dumps({"format": FORMAT, "seed": 1}).encode()]
        lines += [
            json.dumps(asdict(REQUEST) | {"index": number, "arrives_ns": number * 1000}).encode()
            for number in range(random.choice((1, 2, 5)))
        ]
        for _ in range(random.choice((0, 0, 1, 1, 2))):
            at = random.randrange(len(lines))
            lines[at] = raw.json_bytes(random, json.loads(lines[at])) if random.random() < 0.7 else b"null"
            if not _is_json(lines[at]):
                break
        written = b"\n".join(lines)
        share = random.random()
        if share < 0.1:
            return raw.lines(random, written)
        return raw.mutated(random, written) if share < 0.25 else written

    async def give(self, data: bytes) -> Verdict:
        self._path.write_bytes(data)
        try:
            requests = read_trace(self._path, speed=2.0)
        except ValueError as error:
            said = f"{self._path}:"
            return (
                rejected(error)
                if str(error).startswith(said)
                else without_field(f"no line is named: {type(error).__name__}")
            )
        assert requests and all(request.arrives_ns >= 0 for request in requests)
        return ACCEPTED


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Subject]:
    yield Traces(directory / "trace.jsonl")
