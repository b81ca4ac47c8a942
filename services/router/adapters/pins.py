"""Writes pins to etcd behind the request's back.

A pin that is not written costs another router's user a hit, never an answer: the ticket
suffices. So the queue is bounded, the newest pin of a user wins, and what cannot be
written is dropped.

Source: design, section 6, invariant I3.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable

from relaygr.errors import NotHere, RelayError
from relaygr.registry import Registry, keys
from services.router.adapters.discovery import pin_to_json
from services.router.core.effects import PinUser

_log = logging.getLogger(__name__)

LEASE_SHARED_S = 1.0
"""Pins written within this time and of the same window share a lease."""
LEASES_MAX = 64
PAUSE_S = 1.0
"""Rest after a failure."""


class PinWriter:
    """One task that empties a bounded queue into etcd.

    Args:
        registry: etcd.
        writes_max: pins waiting; those beyond are dropped.
        unix_clock: wall-clock nanoseconds.
    """

    def __init__(self, registry: Registry, writes_max: int, unix_clock: Callable[[], int] = time.time_ns) -> None:
        self._registry = registry
        self._writes_max = writes_max
        self._unix_clock = unix_clock
        self._waiting: dict[str, tuple[int, PinUser] | None] = {}
        """By user hash: since when, and the pin; None deletes it."""
        self._leases: dict[int, tuple[int, float]] = {}
        """By life in whole seconds: the lease and when it was granted, monotonic seconds."""
        self._some = asyncio.Event()
        self.dropped = 0
        self._task = asyncio.create_task(self._run(), name="write pins")

    def write(self, pin: PinUser) -> None:
        """Queue a pin."""
        self._queue(pin.user_hash, (self._unix_clock(), pin))

    def delete(self, user_hash: str) -> None:
        """Queue the end of a pin."""
        self._queue(user_hash, None)

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Of each table, what is in it and the most that may be."""
        return {
            "pin_writes": (len(self._waiting), self._writes_max),
            "pin_leases": (len(self._leases), LEASES_MAX),
        }

    async def close(self) -> None:
        """Stop; what is waiting is dropped."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _queue(self, user_hash: str, write: tuple[int, PinUser] | None) -> None:
        if user_hash not in self._waiting and len(self._waiting) >= self._writes_max:
            self.dropped += 1
            return
        self._waiting[user_hash] = write
        self._some.set()

    async def _run(self) -> None:
        while True:
            await self._some.wait()
            self._some.clear()
            while self._waiting:
                user_hash = next(iter(self._waiting))
                write = self._waiting.pop(user_hash)
                try:
                    await self._perform(user_hash, write)
                except RelayError as error:
                    self.dropped += 1
                    _log.debug("a pin was not written: %s", error)
                    await asyncio.sleep(PAUSE_S)

    async def _perform(self, user_hash: str, write: tuple[int, PinUser] | None) -> None:
        key = keys.pin_key(user_hash)
        if write is None:
            await self._registry.delete(key)
            return
        asked_unix_ns, pin = write
        expires_unix_ns = asked_unix_ns + pin.window_ns
        left_s = (expires_unix_ns - self._unix_clock()) / 1e9
        if left_s <= 0:
            return
        value = pin_to_json(pin.instance_id, pin.epoch, expires_unix_ns)
        life_s = math.ceil(left_s + LEASE_SHARED_S)
        try:
            await self._registry.put(key, value, await self._lease(life_s))
        except NotHere:
            self._leases.pop(life_s, None)
            await self._registry.put(key, value, await self._lease(life_s))

    async def _lease(self, life_s: int) -> int:
        now_s = time.monotonic()
        known = self._leases.get(life_s)
        if known is not None and now_s - known[1] < LEASE_SHARED_S:
            return known[0]
        lease, _ = await self._registry.grant(life_s)
        if len(self._leases) >= LEASES_MAX:
            self._leases.clear()
        self._leases[life_s] = (lease, now_s)
        return lease
