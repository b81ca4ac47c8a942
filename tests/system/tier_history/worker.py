"""A ranker's DRAM tier as a process that works at random, and does what it is told in between.

    python -m tests.system.tier_history.worker ADDRESS NAME EPOCH LOG SEED [--blind]

Commands are JSON lines on standard input: `meet` loads a user's entry and then stores another
version; `slow` makes the next copy in or out take its time and say when it is under way; `stop`
ends. With `--blind` digests are the same for all bytes, which is the fault that a run must find.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from relaygr.domain.identity import UserKey
from relaygr.rpc.channel import ChannelPool
from relaygr.segment import ContentDigest, Transfer
from relaygr.telemetry import Telemetry
from services.ranker.adapters import dram, dram_copier
from tests.system.tier_history.contents import (
    MODEL,
    PAGES_MAX,
    TENANT,
    TOKENS_OF_PAGE,
    USERS,
    any_content,
    bytes_of,
    hash_bytes,
    hash_of,
    key_of,
    pages_of,
)
from tests.system.tier_history.history import Log

LANES = 3
PAUSE_S_MAX = 0.02
CALL_TIMEOUT_S = 2.0
SLOW_STEP_BYTES = 4096
SLOW_STEP_S = 0.04

_failures: contextvars.ContextVar[list[str]] = contextvars.ContextVar("failures")
_slow: set[str] = set()


class BlindDigest(ContentDigest):
    """Says of all bytes that they are the same."""

    __slots__ = ()

    def digest(self) -> bytes:
        return bytes(16)


class DigestFailures(logging.Handler):
    """Tells the load that is under way that the tier found wrong bytes."""

    def emit(self, record: logging.LogRecord) -> None:
        if "failed its digest" in record.msg:
            _failures.get([]).append(record.getMessage())


def say(kind: str, *values: Any) -> None:
    # One write, as copying threads say things too.
    os.write(1, json.dumps([kind, *values]).encode() + b"\n")


def move(transfer: Transfer, should_stop: Callable[[], bool]) -> bool:
    """The copy; when it was asked for, in small steps with pauses."""
    direction = "in" if transfer.is_store else "out"
    if direction not in _slow:
        return transfer.work(should_stop)
    steps = count()

    def pause() -> bool:
        # At the second step the first has been copied. A copy that is refused at once never comes here.
        if next(steps) == 1 and direction in _slow:
            _slow.discard(direction)
            say("copying", direction)
        time.sleep(SLOW_STEP_S)
        return bool(should_stop())

    transfer.step_bytes = SLOW_STEP_BYTES
    return transfer.work(pause)


class Worker:
    """Operations of one ranker, each written to the history."""

    def __init__(self, tier: dram.DramTier, log: Log, seed: str):
        self._tier, self._log, self._rng = tier, log, Random(seed)
        self._tokens = dict.fromkeys(USERS, 0)

    async def work(self, stopping: asyncio.Event) -> None:
        """One random operation after the other."""
        while not stopping.is_set():
            user = self._rng.choice(USERS)
            match self._rng.random():
                case chance if chance < 0.55:
                    await self.load(user, self._rng.random() * 0.01)
                case chance if chance < 0.98:
                    await self.store(user)
                case _:
                    await self.forget(user)
            await asyncio.sleep(self._rng.random() * PAUSE_S_MAX)

    async def meet(self, number: int, user: str) -> None:
        """Load what is there, say how that went, and leave another version in its place."""
        generation, is_good = await self.load(user)
        say("met", number, generation, is_good)
        await self.store(user)

    async def load(self, user: str, pause_s: float = 0.0) -> tuple[int, bool]:
        """The generation that was found, 0 for none, and whether its bytes were reported good."""
        operation = self._log.begin("load", user=user)
        hit = await self._tier.lookup(key_of(user))
        if hit is None:
            self._log.end(operation)
            return 0, False
        filled = np.zeros(hit.length_bytes, dtype=np.uint8)
        await asyncio.sleep(pause_s)
        _failures.set(failures := [])
        self._log.add(
            operation,
            found_ns=time.monotonic_ns(),
            boot=hit.attachment.boot_id,
            generation=hit.generation,
            version=[hit.token_count, hit.chain_digest.hex()],
        )
        is_good = await self._tier.load(hit, pages_of(filled))
        bytes_hash = hash_bytes(filled) if is_good else ""
        self._log.end(operation, is_good=is_good, bytes_hash=bytes_hash, has_failed_digest=bool(failures))
        if is_good:
            self._tokens[user] = hit.token_count
        return hit.generation, is_good

    async def store(self, user: str) -> None:
        """Another version: mostly one that has grown, else any."""
        key, tier = key_of(user), self._tier
        if key in tier._stores:
            return
        grown = min(self._tokens[user] + TOKENS_OF_PAGE, PAGES_MAX * TOKENS_OF_PAGE)
        content = any_content(self._rng, user, grown if self._rng.random() < 0.5 else TOKENS_OF_PAGE)
        attachment = tier._attacher.current
        version = [content.tokens, content.chain.hex()]
        operation = self._log.begin("store", user=user, version=version, bytes_hash=hash_of(content))
        is_stored = await tier.store(key, content.tokens, content.chain, pages_of(bytes_of(content)))
        # While the tier has it in hand, or when the attachment has ended, it may be published all the same.
        is_over = key not in tier._stores and tier._attacher.current is attachment
        self._log.end(operation, is_stored=is_stored, is_refused=not is_stored and is_over)

    async def forget(self, user: str) -> None:
        """Forget, and say whether the expander heard of it."""
        operation = self._log.begin("forget", user=user)
        _, is_confirmed = await self._tier.forget(UserKey(TENANT, user))
        self._log.end(operation, is_confirmed=is_confirmed)
        self._tokens[user] = 0


async def obey(worker: Worker) -> None:
    """Commands, until `stop` or the end of standard input."""
    async with asyncio.TaskGroup() as tasks:
        while line := await asyncio.to_thread(sys.stdin.readline):
            match json.loads(line):
                case {"do": "meet", "number": number, "user": user}:
                    tasks.create_task(worker.meet(number, user))
                case {"do": "slow", "direction": direction}:
                    _slow.add(direction)
                case {"do": "stop"}:
                    return


async def main(address: str, name: str, epoch: str, log_path: str, seed: str, *options: str) -> None:
    if "--blind" in options:
        dram.ContentDigest = BlindDigest
    dram_copier.move = move
    logging.getLogger(dram.__name__).addHandler(DigestFailures())
    telemetry, _ = Telemetry.for_tests()
    channels = ChannelPool(telemetry)
    log = Log(Path(log_path))
    tier = dram.DramTier(address, channels, name, int(epoch), MODEL, call_timeout_s=CALL_TIMEOUT_S)
    attached = asyncio.Event()
    tier.start(lambda is_attached: attached.set())
    await attached.wait()
    say("attached")
    stopping = asyncio.Event()
    worker = Worker(tier, log, seed)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(LANES):
            tasks.create_task(worker.work(stopping))
        await obey(worker)
        stopping.set()
    await tier.close()
    await channels.close()
    telemetry.shutdown()
    log.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
