"""A key that exists while its owner does.

Theory of operation. One task grants a lease, writes the key under it and refreshes the
lease at a third of its life, with jitter, for ever. A lease that etcd no longer knows
(an outage longer than its life, an etcd that lost its data) is replaced by a new one
and the key is written again with its current value. A key that somebody else deleted or
overwrote is restored at the next refresh, unless it is exclusive: then it was lost, and
the owner stands for it again.

Source: design, section 6, invariant I7.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from relaygr.errors import NotHere, RelayError
from relaygr.registry.tasks import end_task
from relaygr.registry.watch import BACKOFF_FIRST_S

if TYPE_CHECKING:
    from relaygr.registry.client import Registry

_log = logging.getLogger(__name__)

BACKOFF_MAX_S = 2.0


class Registration:
    """Keeps one key registered; made by `Registry.keep_registered`."""

    def __init__(
        self, registry: Registry, key: str, value_of: Callable[[], str], ttl_s: float, *, exclusive: bool
    ) -> None:
        self._registry = registry
        self._key = key
        self._value_of = value_of
        self._ttl_s = ttl_s
        self._exclusive = exclusive
        self._lease: int | None = None
        self._live_until_s = 0.0
        self._changed = asyncio.Event()
        self._leases_granted = 0
        self._task = asyncio.create_task(self._run(), name=f"register {key}")

    @property
    def is_live(self) -> bool:
        """True while the key is known to be there: confirmed less than a lease's life ago."""
        return time.monotonic() < self._live_until_s

    @property
    def leases_granted(self) -> int:
        """Leases so far; more than one means that one was lost."""
        return self._leases_granted

    def update(self) -> None:
        """Write the value again, soon."""
        self._changed.set()

    async def withdraw(self) -> None:
        """Stop and delete the key now; when etcd is silent, its lease ends it."""
        await self.closed()
        if self._lease is not None:
            with contextlib.suppress(RelayError):
                await self._registry.revoke(self._lease)
            self._lease = None

    async def closed(self) -> None:
        """Stop; the key stays until its lease ends."""
        await end_task(self._task)
        self._live_until_s = 0.0

    async def _run(self) -> None:
        backoff_s = BACKOFF_FIRST_S
        while True:
            try:
                pause_s = await (self._register() if self._lease is None else self._refresh())
                backoff_s = BACKOFF_FIRST_S
            except NotHere:
                self._lost("its lease is gone")
                pause_s = random.uniform(0.0, BACKOFF_FIRST_S)
            except RelayError as error:
                _log.debug("%s: %s", self._key, error)
                backoff_s = pause_s = min(BACKOFF_MAX_S, self._ttl_s / 3, backoff_s * 2)
            except asyncio.CancelledError:
                raise
            except Exception:
                _log.exception("registration of %s failed; trying again", self._key)
                backoff_s = pause_s = BACKOFF_MAX_S
            await self._pause(pause_s * random.uniform(0.8, 1.0))

    async def _pause(self, pause_s: float) -> None:
        """Until the time has passed or the value changed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._changed.wait()

    async def _register(self) -> float:
        """Grant a lease and write the key under it. Returns when to come back, seconds."""
        if self._exclusive and await self._registry.get(self._key) is not None:
            self._changed.clear()
            return self._ttl_s / 2
        asked_s = time.monotonic()
        lease, ttl_s = await self._registry.grant(self._ttl_s)
        # Remembered before the write: a write that fails half-way must not leak a lease each time.
        self._lease = lease
        self._leases_granted += 1
        if not await self._write(lease):
            self._lease = None
            await self._registry.revoke(lease)
            return self._ttl_s / 2
        self._live_until_s = asked_s + ttl_s
        return ttl_s / 3

    async def _refresh(self) -> float:
        """Keep the lease alive and the key as it should be."""
        assert self._lease is not None
        asked_s = time.monotonic()
        ttl_s = await self._registry.keep_alive(self._lease)
        if self._changed.is_set() or not await self._is_written():
            if not await self._write(self._lease):
                lease, self._lease = self._lease, None
                self._lost("somebody else holds it")
                await self._registry.revoke(lease)
                return self._ttl_s / 2
        self._live_until_s = asked_s + ttl_s
        return ttl_s / 3

    async def _write(self, lease: int) -> bool:
        """Write the current value. False when an exclusive key is held by somebody else."""
        # Cleared before the value is taken: an update during the write causes another write.
        self._changed.clear()
        value = self._value_of().encode()
        try:
            if not self._exclusive:
                await self._registry.put(self._key, value, lease)
                return True
            if await self._registry.lease_of(self._key) == lease:
                await self._registry.put(self._key, value, lease)
                return True
            return await self._registry.compare_and_swap(self._key, None, value, lease)
        except BaseException:
            self._changed.set()
            raise

    async def _is_written(self) -> bool:
        return await self._registry.lease_of(self._key) == self._lease

    def _lost(self, why: str) -> None:
        _log.warning("registration of %s was lost: %s", self._key, why)
        self._lease = None
        self._live_until_s = 0.0
