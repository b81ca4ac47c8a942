"""Health checks of instances, as the router's probes make them: until it answers, or once.

Source: design, section 3 (router); services/router/adapters/probes.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from relaygr.domain.instance import InstanceRecord
from services.router.core.effects import ConfirmLoss, StartProbe
from services.router.core.events import CallFailed, FenceReason, HealthAnswered
from services.router.core.membership import PROBE_MAX_NS
from sim.messages import Asked

if TYPE_CHECKING:
    from sim.nodes.router import Router

Name = tuple[str, str, int]
"""Purpose, instance, epoch: one check at a time of each."""


class Probes:
    """Checks and tells the core."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._under_way: dict[Name, Asked] = {}
        self._answered_ns: dict[tuple[str, int], int] = {}

    def start(self, probe: StartProbe) -> None:
        """Check a fenced instance until it answers, is lifted otherwise, or is gone."""
        name = ("fence", probe.instance_id, probe.epoch)
        if name not in self._under_way:
            self._under_way[name] = Asked(self._router, name, 0)
            self._router.after(probe.delay_ns, self._again, name, probe, probe.delay_ns)

    def confirm(self, loss: ConfirmLoss) -> None:
        """Check a doubted instance once."""
        self._once(("doubt", loss.instance_id, loss.epoch), loss.address, self._router.settings.check_timeout_ns)

    def suspect(self, record: InstanceRecord) -> None:
        """Check an instance that lets a call wait; no answer fences it."""
        name = ("suspect", record.instance_id, record.epoch)
        self._once(name, record.address, self._router.settings.suspect_timeout_ns)

    def has_answered(self, record: InstanceRecord, since_ns: int) -> bool:
        """True when a check of this boot was answered after `since_ns`."""
        return self._answered_ns.get((record.instance_id, record.epoch), -1) >= since_ns

    def answered(self, call: Asked) -> None:
        """Somebody at the address serves."""
        if not call.is_over:
            self._ended(call, is_serving=True)

    def _again(self, name: Name, probe: StartProbe, delay_ns: int) -> None:
        if not self._router.core.members.is_fenced(probe.instance_id, probe.epoch):
            del self._under_way[name]
            return
        call = Asked(self._router, name, 0, extra=(probe, delay_ns))
        self._under_way[name] = call
        self._ask(call, probe.address, self._router.settings.check_timeout_ns)

    def _once(self, name: Name, address: str, timeout_ns: int) -> None:
        if name in self._under_way:
            return
        call = self._under_way[name] = Asked(self._router, name, 0)
        self._ask(call, address, timeout_ns)

    def _ask(self, call: Asked, address: str, timeout_ns: int) -> None:
        self._router.after(timeout_ns, self._silent, call)
        self._router.network.call(self._router, address, "health", self._silent, call)

    def _silent(self, call: Asked) -> None:
        if not call.is_over:
            self._ended(call, is_serving=False)

    def _ended(self, call: Asked, *, is_serving: bool) -> None:
        call.is_over = True
        name: Name = call.about
        self._under_way.pop(name, None)
        purpose, instance_id, epoch = name
        if is_serving:
            self._answered_ns[instance_id, epoch] = self._router.clock_ns()
        if purpose == "suspect":
            if not is_serving:
                self._router.feed(CallFailed(instance_id, epoch, FenceReason.SILENT))
            return
        if is_serving or purpose == "doubt":
            if is_serving:
                self._router.heard(instance_id, epoch)
            self._router.feed(HealthAnswered(instance_id, epoch, is_serving))
            return
        self._pause(call)

    def _pause(self, call: Asked) -> None:
        """A fenced instance does not answer yet."""
        extra: Any = call.extra
        probe, delay_ns = extra
        delay_ns = min(PROBE_MAX_NS, delay_ns * 2)
        self._under_way[call.about] = call
        self._router.after(delay_ns, self._again, call.about, probe, delay_ns)
