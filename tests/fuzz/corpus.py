"""Inputs that once were faults: kept by target, and given before anything else."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from tests.fuzz.judge import Judge
from tests.fuzz.subject import Subject
from tests.fuzz.verdict import Verdict

CORPUS = Path(__file__).parent / "corpus"
TRIES_MAX = 150


def kept(target: str, corpus: Path = CORPUS) -> list[tuple[str, bytes]]:
    """Names and inputs of a target."""
    return [(path.name, path.read_bytes()) for path in sorted((corpus / target).glob("*.bin"))]


def keep(target: str, verdict: Verdict, data: bytes, corpus: Path = CORPUS) -> str:
    """Keep an input under a name that says what it was; returns the name."""
    words = re.sub(r"[^a-z0-9]+", "-", f"{verdict.kind.value}-{verdict.detail}".lower()).strip("-")[:90]
    folder = corpus / target
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{words}-{hashlib.sha256(data).hexdigest()[:6]}.bin"
    path.write_bytes(data)
    return path.name


async def minimised(subject: Subject, judge: Judge, data: bytes, verdict: Verdict) -> bytes:
    """The same fault with less: the first smaller input that shows it, again and again, within a few tries."""
    tries = 0
    while tries < TRIES_MAX:
        for smaller in subject.smaller(data):
            tries += 1
            found = await judge.verdict(smaller)
            if (found.kind, found.detail) == (verdict.kind, verdict.detail) and len(smaller) < len(data):
                data = smaller
                break
            if tries >= TRIES_MAX:
                return data
        else:
            return data
    return data
