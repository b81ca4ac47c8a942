"""One run: work at random, damage on purpose, deaths in between; then the judgement over its history."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random

from tests.system.tier_history.checker import Verdict, check
from tests.system.tier_history.contents import MODEL, USERS
from tests.system.tier_history.history import read
from tests.system.tier_history.injector import Injector
from tests.system.tier_history.owner import PinningOwner
from tests.system.tier_history.world import TOMBSTONE_NS, WorkerProcess, World, tier_world

INJECTING = 4
"""Damages on their way at a time."""
PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much of what."""

    seed: int
    offered: int
    """Damages that loads have to come upon."""
    workers: int = 4
    rounds: int = 1
    """Of: a worker killed in a store and in a load, one stopped in a store and in a load, the expander killed."""
    is_blind: bool = False
    """Workers do not compare digests."""


class Run:
    """A run in progress."""

    def __init__(self, plan: Plan, world: World, owner: PinningOwner):
        self._plan, self._world, self._owner = plan, world, owner
        self._injector = Injector(owner, world.log)
        self._numbers = count(1)
        self._rng = Random(f"{plan.seed}/disturb")
        self._usable = {worker.name: worker for worker in world.workers}
        self.offered = 0
        self._moved = asyncio.Event()

    async def all(self) -> None:
        """Inject until enough was offered, and go through the disturbances meanwhile."""
        async with asyncio.TaskGroup() as tasks:
            for lane in range(INJECTING):
                tasks.create_task(self._inject(lane))
            tasks.create_task(self._disturb())

    async def _inject(self, lane: int) -> None:
        rng = Random(f"{self._plan.seed}/inject/{lane}")
        users = USERS[lane::INJECTING]
        while self.offered < self._plan.offered:
            user, *others = rng.sample(users, len(users))
            damaged = await self._injector.hit(rng, user, others)
            for one in damaged:
                worker = rng.choice(list(self._usable.values()))
                generation, _ = await worker.meet(next(self._numbers), one.user)
                if one.has_changed and generation == one.generation:
                    self.offered += 1
                    self._moved.set()
            if not damaged:
                # Nothing there, or nobody who answers: have something stored.
                await rng.choice(list(self._usable.values())).meet(next(self._numbers), user)
                await asyncio.sleep(0.005)

    async def _disturb(self) -> None:
        steps: list[Callable[[], Awaitable[None]]] = [
            lambda: self._kill_in_a_copy("in"),
            lambda: self._stop_in_a_copy("in"),
            self._restart_expander,
            lambda: self._kill_in_a_copy("out"),
            lambda: self._stop_in_a_copy("out"),
        ] * self._plan.rounds
        for done, step in enumerate(steps, 1):
            await self._until_offered(self._plan.offered * done // (len(steps) + 1))
            await step()

    async def _kill_in_a_copy(self, direction: str) -> None:
        worker = self._take()
        await worker.be_slow(direction)
        await worker.kill()
        await worker.start()
        self._usable[worker.name] = worker

    async def _stop_in_a_copy(self, direction: str) -> None:
        worker = self._take()
        owners = (await self._owner.describe()).owners
        await worker.be_slow(direction)
        worker.pause()
        await self._until_described(lambda seen: seen.owners < owners)
        if direction == "in":
            await self._until_described(lambda seen: seen.quarantined_bytes > 0)
        worker.resume()
        await self._until_described(lambda seen: seen.owners == owners)
        self._usable[worker.name] = worker

    async def _restart_expander(self) -> None:
        self._world.kill_expander()
        await self._world.start_expander(self._owner)

    def _take(self) -> WorkerProcess:
        """One of those that meet damages, which it does not until it is given back."""
        return self._usable.pop(self._rng.choice(sorted(self._usable)))

    async def _until_described(self, is_so: Callable[..., bool]) -> None:
        end_s = time.monotonic() + PATIENCE_S
        while not is_so(await self._owner.describe()):
            assert time.monotonic() < end_s, "the expander does not come to say so"
            await asyncio.sleep(0.01)

    async def _until_offered(self, wanted: int) -> None:
        while self.offered < wanted:
            self._moved.clear()
            await asyncio.wait_for(self._moved.wait(), PATIENCE_S)


async def run(plan: Plan, folder: Path) -> tuple[Verdict, float]:
    """The verdict, and seconds from the first operation to the last."""
    options = ("--blind",) if plan.is_blind else ()
    started_ns = time.monotonic_ns()
    async with tier_world(folder, workers=plan.workers, seed=plan.seed, options=options) as world:
        async with PinningOwner(world.address, MODEL) as owner:
            await world.note_boot(owner, started_ns)
            await asyncio.gather(*(worker.start() for worker in world.workers))
            begun_s = time.monotonic()
            await Run(plan, world, owner).all()
            await asyncio.gather(*(worker.stop() for worker in world.workers))
            took_s = time.monotonic() - begun_s
        return check(read(world.histories()), TOMBSTONE_NS), took_s
