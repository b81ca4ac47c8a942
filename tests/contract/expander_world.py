"""A real expander on loopback with a real segment, rankers beside it, and rankers in other processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np

from relaygr.domain.identity import ModelIdentity, PsiKey, UserKey
from relaygr.rpc.channel import ChannelPool
from relaygr.rpc.server import RpcServer
from relaygr.telemetry import Telemetry
from relaygr.v1.expander_pb2_grpc import ExpanderServiceStub, add_ExpanderServiceServicer_to_server
from services.expander.adapters.segment import create_segment, new_boot_id
from services.expander.adapters.sweeper import Sweeper
from services.expander.config import ExpanderConfig
from services.expander.core.tiering import Tiering
from services.expander.service import ExpanderService
from services.ranker.adapters.dram import DramTier
from services.ranker.adapters.dram_found import Found

MODEL = ModelIdentity("m", "1", "ab" * 32, "float32", "paged128", 1024)
PAGE_BYTES = 10_000  # deliberately neither a block nor a divisor of one
CHAIN = b"0123456789abcdef"
ROOT = Path(__file__).resolve().parent.parent.parent


def key_of(user: str, tenant: str = "t", anchor: int = 0) -> PsiKey:
    return PsiKey(UserKey(tenant, user), MODEL.key, anchor)


def pages_of(seed: int, count: int = 3) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 256, PAGE_BYTES, dtype=np.uint8) for _ in range(count)]


def empty(count: int = 3) -> list[np.ndarray]:
    return [np.zeros(PAGE_BYTES, dtype=np.uint8) for _ in range(count)]


def same(left: list[np.ndarray], right: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait for something that another task or process brings about."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        await asyncio.sleep(0.005)


class World:
    """One host: an expander that can be restarted, and rankers."""

    def __init__(self, directory: Path, **settings: Any):
        defaults: dict[str, Any] = {
            "segment_bytes": 1_000_000,
            "block_bytes": 4096,
            "heartbeat_ms": 40.0,
            "owner_lapse_ms": 300.0,
            "probe_ms": 20.0,
        }
        self.config = ExpanderConfig(segment_directory=str(directory), **(defaults | settings))
        self.telemetry, self.spans = Telemetry.for_tests()
        self.channels = ChannelPool(self.telemetry)
        self.port = 0
        self.wrap: Callable[[ExpanderService], Any] = lambda service: service
        self._rankers: list[DramTier] = []
        self._processes: list[RankerProcess] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def stub(self) -> ExpanderServiceStub:
        return ExpanderServiceStub(self.channels.get(self.address))

    async def start(self) -> None:
        self.segment = create_segment(self.config, new_boot_id())
        self.tiering = Tiering(self.config.limits, self.segment.presence, self.segment)
        self.sweeper = Sweeper(self.tiering, self.segment.locks, self.config.probe_ms / 1000)
        self.sweeper.start()
        heartbeat_ns = int(self.config.heartbeat_ms * 1e6)
        service = ExpanderService(self.tiering, self.segment, self.telemetry, heartbeat_ns)
        self.server = RpcServer(service_name="expander", address=self.address, telemetry=self.telemetry)
        self.server.add(add_ExpanderServiceServicer_to_server, self.wrap(service), "relaygr.v1.ExpanderService")
        self.add_services()
        self.port = await self.server.start()

    def add_services(self) -> None:
        """Beside the expander's own; for worlds that have more."""

    async def stop(self) -> None:
        await self.server.stop(0)
        await self.sweeper.close()
        self.tiering.check()
        self.segment.close()

    async def ranker(self, owner: str = "r1", epoch: int = 1, **settings: Any) -> DramTier:
        # The machine is shared with others: a control call may well be late without that being the point.
        # What a ranker remembers it does not ask for; most of what is told here is about asking.
        settings = {"call_timeout_s": 2.0, "known_max": 0} | settings
        tier = DramTier(self.address, self.channels, owner, epoch, MODEL, **settings)
        self._rankers.append(tier)
        tier.start()
        await until(lambda: tier.is_attached)
        return tier

    def share_slot_of(self, key: PsiKey) -> None:
        """As if another entry's key fell on this key's slot of the presence filter: rankers ask for it."""
        self.segment.presence.add(key)

    async def process(self, owner: str) -> RankerProcess:
        process = RankerProcess(self.address, owner)
        self._processes.append(process)
        await process.line("attached")
        return process

    async def close(self) -> None:
        for process in self._processes:
            process.kill()
        for tier in self._rankers:
            await tier.close()
        await self.stop()
        await self.channels.close()
        self.telemetry.shutdown()


@asynccontextmanager
async def expander_world(directory: Path, **settings: Any) -> AsyncIterator[World]:
    world = World(directory, **settings)
    await world.start()
    try:
        yield world
    finally:
        await world.close()


async def stored(tier: DramTier, key: PsiKey, pages: list[np.ndarray], tokens: int = 300) -> bool:
    return await tier.store(key, tokens, CHAIN, pages, "00-" + "1" * 32 + "-" + "2" * 16 + "-01")


async def found(tier: DramTier, key: PsiKey) -> Found:
    hit = await tier.lookup(key)
    assert hit is not None
    return hit


class RankerProcess:
    """A ranker's DRAM tier in a process of its own, told what to do line by line."""

    def __init__(self, address: str, owner: str):
        command = [sys.executable, "-m", "tests.contract.expander_ranker_process", address, owner]
        self._child = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, **command: Any) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(command) + "\n")
        self._child.stdin.flush()

    async def line(self, wanted: str) -> Any:
        """The value of the next line, which must be of this kind."""
        assert self._child.stdout is not None
        text = await asyncio.wait_for(asyncio.to_thread(self._child.stdout.readline), 30)
        kind, value = json.loads(text)
        assert kind == wanted, f"{kind} came instead of {wanted}"
        return value

    def pause(self) -> None:
        os.kill(self._child.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self._child.pid, signal.SIGCONT)

    def kill(self) -> None:
        self._child.kill()
        self._child.wait(10)
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None and not pipe.closed:
                pipe.close()
