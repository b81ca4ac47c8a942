"""Health checks of instances: fenced ones until they answer, doubted and suspected ones once.

One task per instance, epoch and purpose, so their number is bounded by the members.

Source: design, section 3 (router).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from relaygr.domain.instance import InstanceRecord
from services.router.adapters.rankers import Rankers
from services.router.core.effects import ConfirmLoss, StartProbe
from services.router.core.events import CallFailed, Event, FenceReason, HealthAnswered
from services.router.core.membership import PROBE_MAX_NS, Membership

CHECK_TIMEOUT_S = 1.0


class Probes:
    """Checks and tells the core.

    Args:
        rankers: how to ask.
        members: the core's view; says when a fence has been lifted otherwise.
        feed: takes the answers.
        suspect_timeout_s: a suspected instance that says nothing for so long is fenced.
    """

    def __init__(
        self, rankers: Rankers, members: Membership, feed: Callable[[Event], None], suspect_timeout_s: float
    ) -> None:
        self._rankers = rankers
        self._members = members
        self._feed = feed
        self._suspect_timeout_s = suspect_timeout_s
        self._tasks: dict[tuple[str, str, int], asyncio.Task[bool]] = {}

    def start(self, probe: StartProbe) -> None:
        """Check a fenced instance until it answers, is lifted otherwise, or is gone."""
        self._once(("fence", probe.instance_id, probe.epoch), lambda: self._until_it_answers(probe))

    def confirm(self, loss: ConfirmLoss) -> None:
        """Check a doubted instance once."""
        self._once(("doubt", loss.instance_id, loss.epoch), lambda: self._confirm(loss))

    def suspect(self, record: InstanceRecord) -> asyncio.Task[bool]:
        """Check an instance that lets a call wait; the task says whether it answers. No answer fences it.

        The check has its own timeout: a caller's short deadline must not fence anybody.
        """
        return self._once(("suspect", record.instance_id, record.epoch), lambda: self._suspect(record))

    async def close(self) -> None:
        """End all checks."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _once(self, name: tuple[str, str, int], check: Callable[[], Coroutine[None, None, bool]]) -> asyncio.Task[bool]:
        task = self._tasks.get(name)
        if task is None or task.done():
            task = asyncio.create_task(check(), name=" ".join(map(str, name)))
            self._tasks[name] = task
            task.add_done_callback(lambda done: self._ended(name, done))
        return task

    def _ended(self, name: tuple[str, str, int], task: asyncio.Task[bool]) -> None:
        if self._tasks.get(name) is task:
            del self._tasks[name]

    async def _until_it_answers(self, probe: StartProbe) -> bool:
        delay_s = probe.delay_ns / 1e9
        while True:
            await asyncio.sleep(delay_s)
            if not self._members.is_fenced(probe.instance_id, probe.epoch):
                return True
            if await self._rankers.is_serving(probe.address, CHECK_TIMEOUT_S):
                self._feed(HealthAnswered(probe.instance_id, probe.epoch, True))
                return True
            delay_s = min(PROBE_MAX_NS / 1e9, delay_s * 2)

    async def _confirm(self, loss: ConfirmLoss) -> bool:
        is_serving = await self._rankers.is_serving(loss.address, CHECK_TIMEOUT_S)
        self._feed(HealthAnswered(loss.instance_id, loss.epoch, is_serving))
        return is_serving

    async def _suspect(self, record: InstanceRecord) -> bool:
        is_alive = await self._rankers.is_alive(record.address, self._suspect_timeout_s)
        if not is_alive:
            self._feed(CallFailed(record.instance_id, record.epoch, FenceReason.SILENT))
        return is_alive
