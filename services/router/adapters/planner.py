"""Writes the slot tables: one router at a time, elected under a lease.

The election only spares needless work. What keeps a table right is the compare-and-swap
over the very value the plan was made from: two routers that both believe themselves
elected cannot overwrite one another.

Source: design, section 6.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

from relaygr.errors import RelayError
from relaygr.registry import Registry, keys
from relaygr.runtime.logs import next_step
from services.router.core.binding import Binding
from services.router.core.slots import InvalidTable, SlotTable, next_table

_log = logging.getLogger(__name__)

ROLE = "slots"
PERIOD_S = 2.0
"""Look again this often, for whoever was elected since."""
UNSERVED_KEPT_S = 600.0
"""A table outlives the last instance of its model by this."""


class TablePlanner:
    """Plans while it holds the role.

    Args:
        registry: etcd.
        core: members and weights; read only.
        router_id: who stands for election.
        ttl_s: life of the role's lease.
        settle_s: rest after a change, so that a restart in place moves nobody.
    """

    def __init__(self, registry: Registry, core: Binding, router_id: str, *, ttl_s: float, settle_s: float) -> None:
        self._registry = registry
        self._core = core
        self._settle_s = settle_s
        self._changed = asyncio.Event()
        self._unserved_since_s: dict[str, float] = {}
        self._role = registry.keep_registered(keys.election_key(ROLE), lambda: router_id, ttl_s, exclusive=True)
        self._task = asyncio.create_task(self._run(), name="plan slots")

    @property
    def is_elected(self) -> bool:
        """True while this router holds the role."""
        return self._role.is_live

    def look(self) -> None:
        """The instances changed."""
        self._changed.set()

    async def close(self) -> None:
        """Stop and give the role back, so that another router has it at once."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._role.withdraw()

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PERIOD_S):
                    await self._changed.wait()
            if self._changed.is_set():
                await asyncio.sleep(self._settle_s)
            self._changed.clear()
            if not self._role.is_live:
                continue
            try:
                await self.plan()
            except RelayError as error:
                _log.debug("slots were not planned: %s", error)
            except Exception:
                step = next_step("nothing now: it is tried again at the next change; report it with the traceback")
                _log.exception("slots were not planned", extra=step)

    async def plan(self) -> None:
        """Write each model's table that should change, and drop those nobody needs."""
        for model_key in self._core.models():
            await self._plan_model(model_key)
        served = set(self._core.models())
        stored = [key for key, _ in (await self._registry.get_prefix(keys.SLOTS_PREFIX)).items]
        unserved = {key for key in stored if keys.id_of(key, keys.SLOTS_PREFIX) not in served}
        now_s = time.monotonic()
        self._unserved_since_s = {key: self._unserved_since_s.get(key, now_s) for key in sorted(unserved)}
        for key, since_s in self._unserved_since_s.items():
            if now_s - since_s > UNSERVED_KEPT_S:
                await self._registry.delete(key)

    async def _plan_model(self, model_key: str) -> None:
        key = keys.slots_key(model_key)
        stored = await self._registry.get(key)
        current = None
        if stored is not None:
            try:
                current = SlotTable.from_json(stored)
            except InvalidTable as error:
                step = next_step("nothing: a table of this release is written over it")
                _log.warning("%s is replaced: %s", key, error, extra=step)
        following = next_table(current, self._core.weights(model_key))
        if following is None:
            return
        if await self._registry.compare_and_swap(key, stored, following.to_json()):
            owners = len(set(following.owners))
            _log.info("slots of %s: version %d over %d instances", model_key, following.version, owners)
        else:
            self._changed.set()  # Somebody wrote meanwhile: plan again from that.
