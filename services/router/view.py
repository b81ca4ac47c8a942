"""The instances as one process sees them: the core, and what carries its effects out.

A router has one, and so has a client that calls rankers itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from relaygr.runtime.driver import Driver
from relaygr.runtime.logs import next_step
from relaygr.telemetry import Telemetry
from services.router.adapters.probes import Probes
from services.router.adapters.rankers import Rankers
from services.router.core.binding import Binding
from services.router.core.effects import ChangeMembers, ConfirmLoss, Effect, ForgetPeer, StartProbe
from services.router.core.events import Event
from services.router.metrics import RouterMetrics

_log = logging.getLogger(__name__)

PEER_KEPT_S = 15.0
"""A channel outlives its instance's registration by this, so that calls in progress end."""


class View:
    """The core on the real clock, with channels to rankers and checks of their health. Make it on a running loop.

    Args:
        core: the choices.
        rankers: calls to rankers; closed with this.
        telemetry: counts choices and fences.
        suspect_timeout_s: a suspected instance that says nothing for so long is fenced.
        changed: the instances changed.
    """

    def __init__(
        self,
        core: Binding,
        rankers: Rankers,
        telemetry: Telemetry,
        *,
        suspect_timeout_s: float,
        changed: Callable[[], None],
    ) -> None:
        self.core = core
        self.rankers = rankers
        self.driver: Driver[Event, Effect] = Driver(core, self._perform)
        self.metrics = RouterMetrics(telemetry, core)
        self.probes = Probes(rankers, core.members, self.driver.feed, suspect_timeout_s=suspect_timeout_s)
        self._changed = changed
        self._peer_timers: dict[str, asyncio.TimerHandle] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Stop checks and close the channels; after the driver and whatever feeds it."""
        await self.probes.close()
        for timer in self._peer_timers.values():
            timer.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self.rankers.close()

    def _perform(self, effect: Effect) -> None:
        match effect:
            case StartProbe():
                step = next_step("see that it runs: relaygr health; requests go to others until it answers")
                _log.warning("%s is fenced: %s", effect.instance_id, effect.reason.value, extra=step)
                self.metrics.fenced(effect.reason)
                self.probes.start(effect)
            case ConfirmLoss():
                step = next_step("see that etcd runs; instances that answer are kept")
                _log.warning("%s is said to be gone, with too many others", effect.instance_id, extra=step)
                self.probes.confirm(effect)
            case ForgetPeer():
                timer = self._peer_timers.pop(effect.address, None)
                if timer is not None:
                    timer.cancel()
                loop = asyncio.get_running_loop()
                self._peer_timers[effect.address] = loop.call_later(PEER_KEPT_S, self._forget_peer, effect.address)
            case ChangeMembers():
                self._changed()

    def _forget_peer(self, address: str) -> None:
        """Close the channel, unless somebody else is at that address by now."""
        self._peer_timers.pop(address, None)
        if any(member.record.address == address for member in self.core.members):
            return
        task = asyncio.create_task(self.rankers.forget_peer(address))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
