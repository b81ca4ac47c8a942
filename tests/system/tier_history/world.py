"""The processes of a run: one expander, a few workers, each of which can be killed, stopped and started again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from demo.cluster import free_addresses, is_serving
from demo.processes import ROOT, ProcessSpec, Supervisor, guarded
from tests.system.tier_history.history import Log
from tests.system.tier_history.owner import PinningOwner

SETTINGS = {
    "segment_bytes": "600000",  # A third of what the users would store: something is always being evicted.
    "block_bytes": "4096",
    "staging_share": "0.5",
    "heartbeat_ms": "100",
    "owner_lapse_ms": "1000",
    "probe_ms": "20",
    "pin_ms": "10000",
    "tombstone_s": "0.3",
    "log_level": "ERROR",
}
TOMBSTONE_NS = 300_000_000
LINE_TIMEOUT_S = 30.0


class WorkerProcess:
    """A worker's life after life; told what to do line by line."""

    def __init__(self, name: str, address: str, folder: Path, seed: int, options: tuple[str, ...]):
        self.name = name
        self._address, self._folder, self._seed, self._options = address, folder, seed, options
        self._lives = 0
        self._child: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._met: dict[int, asyncio.Future[tuple[int, bool]]] = {}
        self._heard: dict[str, asyncio.Event] = {}

    @property
    def log_path(self) -> Path:
        """Where it complains."""
        return self._folder / "logs" / f"{self.name}.log"

    @property
    def is_up(self) -> bool:
        """Whether it takes commands."""
        return self._child is not None and self._child.returncode is None

    async def start(self) -> None:
        """Begin a life, and wait until it is attached."""
        self._lives += 1
        log = self._folder / f"{self.name}-{self._lives}.jsonl"
        seed = f"{self._seed}/{self.name}/{self._lives}"
        module = ("-m", "tests.system.tier_history.worker")
        arguments = (self._address, self.name, str(self._lives), str(log), seed, *self._options)
        self._heard = {word: asyncio.Event() for word in ("attached", "copying")}
        command = guarded((sys.executable, *module, *arguments))
        pipe = asyncio.subprocess.PIPE
        with self.log_path.open("ab") as errors:
            self._child = await asyncio.create_subprocess_exec(
                *command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=errors
            )
        self._reading = asyncio.create_task(self._read(self._child))
        await self._hear("attached")

    async def meet(self, number: int, user: str) -> tuple[int, bool]:
        """Have it load a user's entry: the generation it found, and whether it believed the bytes.

        (0, False) when it found none, and when it died.
        """
        future = self._met[number] = asyncio.get_running_loop().create_future()
        self._tell(do="meet", number=number, user=user)
        try:
            return await future
        finally:
            self._met.pop(number, None)

    async def be_slow(self, direction: str) -> None:
        """Return once one of its copies, "in" or "out", is under way, and will be for a while."""
        self._heard["copying"].clear()
        self._tell(do="slow", direction=direction)
        await self._hear("copying")

    def pause(self) -> None:
        """SIGSTOP."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    async def kill(self) -> None:
        """SIGKILL."""
        if self.is_up:
            self._signal(signal.SIGKILL)
        await self._ended()

    async def stop(self) -> None:
        """Let it finish what it does, and end."""
        self._tell(do="stop")
        await self._ended()
        assert self._child is not None
        assert self._child.returncode == 0, f"{self.name} ended badly\n{self.log_path.read_text()[-2000:]}"

    def _tell(self, **command: Any) -> None:
        assert self._child is not None and self._child.stdin is not None
        self._child.stdin.write(json.dumps(command).encode() + b"\n")

    def _signal(self, number: signal.Signals) -> None:
        assert self._child is not None
        os.kill(self._child.pid, number)

    async def _hear(self, word: str) -> None:
        await asyncio.wait_for(self._heard[word].wait(), LINE_TIMEOUT_S)

    async def _ended(self) -> None:
        if self._child is not None and self._reading is not None:
            await asyncio.wait_for(self._child.wait(), LINE_TIMEOUT_S)
            await self._reading

    async def _read(self, child: asyncio.subprocess.Process) -> None:
        assert child.stdout is not None
        while line := await child.stdout.readline():
            kind, *values = json.loads(line)
            if kind == "met":
                number, generation, is_good = values
                if number in self._met and not self._met[number].done():
                    self._met[number].set_result((generation, is_good))
            else:
                self._heard[kind].set()
        for future in self._met.values():
            if not future.done():
                future.set_result((0, False))


class World:
    """Everything that runs, and where it writes its part of the history."""

    def __init__(self, folder: Path, supervisor: Supervisor, workers: int, seed: int, options: tuple[str, ...]):
        self.folder = folder
        self._supervisor = supervisor
        (self.address,) = free_addresses(1)
        self.log = Log(folder / "world.jsonl")
        self.workers = [
            WorkerProcess(f"worker-{number}", self.address, folder, seed, options) for number in range(workers)
        ]

    def histories(self) -> list[Path]:
        """Of all processes so far."""
        return sorted(self.folder.glob("*.jsonl"))

    async def start_expander(self, owner: PinningOwner | None = None) -> None:
        """Begin an expander's life; with an owner, note the boot that it then sees."""
        started_ns = time.monotonic_ns()
        variables = {"address": self.address, "segment_directory": str(self.folder), **SETTINGS}
        spec = ProcessSpec(
            name="expander",
            command=(sys.executable, "-m", "services.expander"),
            environment={f"RELAYGR_EXPANDER_{name.upper()}": value for name, value in variables.items()},
            is_ready=lambda: is_serving(self.address),
        )
        self._supervisor.start(spec)
        await asyncio.to_thread(self._supervisor.wait_ready, "expander")
        if owner is not None:
            await self.note_boot(owner, started_ns)

    async def note_boot(self, owner: PinningOwner, started_ns: int) -> None:
        """Write down when the boot that answers now began at the earliest."""
        await owner.attach()
        assert owner.segment is not None
        self.log.begin("boot", boot=owner.segment.boot_id, started_ns=started_ns)

    def kill_expander(self) -> None:
        """SIGKILL."""
        self._supervisor.kill("expander")


@asynccontextmanager
async def tier_world(folder: Path, *, workers: int, seed: int, options: tuple[str, ...] = ()) -> AsyncIterator[World]:
    """An expander that serves; workers are not started yet. All are gone afterwards."""
    with Supervisor(folder / "logs") as supervisor:
        world = World(folder, supervisor, workers, seed, options)
        try:
            await world.start_expander()
            yield world
        finally:
            for worker in world.workers:
                await worker.kill()
            world.log.close()
