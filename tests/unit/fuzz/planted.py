"""Subjects with a fault planted in them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.subject import Subject
from tests.fuzz.verdict import ACCEPTED, Verdict

BAD = b"bad"
SIZE_MAX = 10
KEPT: list[Any] = []


class Planted(Subject):
    """Accepts everything; one input in ten holds a word that sets the fault off, among others."""

    def __init__(self, fault: Callable[[Planted], Any]) -> None:
        self._fault = fault
        self.held: list[Any] = []

    def draw(self, random: Random) -> bytes:
        filling = b"." * random.randrange(10, 60)
        return filling + (BAD if random.random() < 0.1 else b"") + filling

    async def give(self, data: bytes) -> Verdict:
        await asyncio.sleep(0)
        if BAD in data:
            answer = self._fault(self)
            found = await answer if asyncio.iscoroutine(answer) else answer
            return found or ACCEPTED
        return ACCEPTED

    def sizes(self) -> dict[str, tuple[int, int]]:
        return {"held": (len(self.held), SIZE_MAX)}


def opener(fault: Callable[[Planted], Any]) -> Any:
    @asynccontextmanager
    async def opened(_directory: Path) -> AsyncIterator[Subject]:
        yield Planted(fault)

    return opened


def crashes(_: Planted) -> None:
    raise KeyError("planted")


def spins(_: Planted) -> None:
    while True:
        pass


async def waits(_: Planted) -> None:
    await asyncio.Event().wait()


def fills_a_table(subject: Planted) -> None:
    subject.held.append(1)


def keeps_memory(subject: Planted) -> None:
    # Written to, or the kernel would give it only when somebody looks.
    KEPT.append(bytes(range(256)) * 8_192)


def keeps_files(subject: Planted) -> None:
    os.dup(1)


async def keeps_tasks(subject: Planted) -> None:
    KEPT.append(asyncio.create_task(asyncio.Event().wait(), name="planted"))
