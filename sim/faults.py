"""What goes wrong, and when: a schedule drawn from the seed, performed on a cluster.

Everything that begins also ends, at the latest when the last request has come, so that a run can be held to rest.

Source: design, section 5; invariants I6, I7, I8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from services.ranker.core.events import UserForgotten
from sim.cluster import Cluster
from sim.kernel import MS, SECOND
from sim.nodes.process import Process
from sim.nodes.ranker import Ranker
from sim.settings import Settings

KINDS = (
    "crash",
    "stop",
    "slow",
    "expander_crash",
    "expander_stop",
    "router_crash",
    "router_stop",
    "trigger_crash",
    "partition",
    "loss",
    "etcd_down",
    "etcd_empty",
    "watch_gaps",
    "clock_step",
    "rolling_restart",
    "new_model",
    "scale_out",
    "scale_in",
    "forget",
)
MEAN_PAUSE_NS = 700 * MS
LEAVE_NS = 1500 * MS
"""From the begin of a drain to the end of the process: longer than a window."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong."""

    at_ns: int
    kind: str
    lasts_ns: int
    choice: float
    """Says who is hit: in [0, 1)."""


def drawn(settings: Settings, random: Random, kinds: Sequence[str] = KINDS) -> list[Fault]:
    """A schedule for a run."""
    faults = []
    at_ns = 0
    while (at_ns := at_ns + int(random.expovariate(1.0) * MEAN_PAUSE_NS)) < settings.seconds * SECOND:
        lasts_ns = int(min(6.0, random.lognormvariate(-0.7, 1.3)) * SECOND)
        faults.append(Fault(at_ns, kinds[int(random.random() * len(kinds))], lasts_ns, random.random()))
    return faults


class Faults:
    """Performs a schedule."""

    def __init__(self, cluster: Cluster, faults: Sequence[Fault]) -> None:
        self._cluster = cluster
        self._kernel = cluster.kernel
        self._end_ns = int(cluster.settings.seconds * SECOND)
        self.happened: list[str] = []
        for fault in faults:
            self._kernel.at(fault.at_ns, self._begin, fault)

    def _begin(self, fault: Fault) -> None:
        if self._kernel.now_ns < self._end_ns:
            self.happened.append(fault.kind)
            getattr(self, f"_{fault.kind}")(fault)

    def _later(self, fault: Fault, action: Callable[..., object], *arguments: object) -> None:
        """What a fault ends with."""
        self._kernel.at(min(self._kernel.now_ns + fault.lasts_ns, self._end_ns), action, *arguments)

    def _one(self, fault: Fault, group: Mapping[str, Process], least: int) -> Process | None:
        """Who is hit; nobody when too few would be left."""
        living = [process for process in group.values() if process.is_alive and not process.is_stopped]
        return living[int(fault.choice * len(living))] if len(living) > least else None

    def _ranker(self, fault: Fault, least: int = 1) -> Ranker | None:
        found = self._one(fault, self._cluster.rankers, least)
        return found if isinstance(found, Ranker) else None

    def _crash(self, fault: Fault) -> None:
        ranker = self._ranker(fault)
        if ranker is not None:
            ranker.die()
            self._later(fault, self._restart, ranker)

    def _restart(self, ranker: Ranker) -> None:
        if not self._cluster.rankers[ranker.name].is_alive:
            self._cluster.start_ranker(ranker.name, ranker.host)

    def _stop(self, fault: Fault) -> None:
        ranker = self._ranker(fault)
        if ranker is not None:
            ranker.stop()
            self._later(fault, ranker.go_on)

    def _slow(self, fault: Fault) -> None:
        ranker = self._ranker(fault, 0)
        if ranker is not None:
            ranker.device.slowness = 3.0
            self._later(fault, self._quick, ranker)

    @staticmethod
    def _quick(ranker: Ranker) -> None:
        ranker.device.slowness = 1.0

    def _expander_crash(self, fault: Fault) -> None:
        hosts = [host for host, expander in self._cluster.expanders.items() if expander.is_alive]
        if hosts:
            host = hosts[int(fault.choice * len(hosts))]
            self._cluster.expanders[host].die()
            self._later(fault, self._cluster.start_expander, host)

    def _expander_stop(self, fault: Fault) -> None:
        living = [one for one in self._cluster.expanders.values() if one.is_alive and not one.is_stopped]
        if living:
            expander = living[int(fault.choice * len(living))]
            expander.stop()
            self._later(fault, expander.go_on)

    def _router_crash(self, fault: Fault) -> None:
        router = self._one(fault, self._cluster.routers, 1)
        if router is not None:
            router.die()
            self._later(fault, self._cluster.start_router, router.name)

    def _router_stop(self, fault: Fault) -> None:
        router = self._one(fault, self._cluster.routers, 1)
        if router is not None:
            router.stop()
            self._later(fault, router.go_on)

    def _trigger_crash(self, fault: Fault) -> None:
        trigger = self._one(fault, self._cluster.triggers, 0)
        if trigger is not None:
            trigger.die()
            self._later(fault, self._cluster.start_trigger, trigger.name)

    def _partition(self, fault: Fault) -> None:
        hosts = sorted({process.host for process in self._cluster.living()} | {"registry-host"})
        cut = {host for place, host in enumerate(hosts) if (fault.choice * 7919 * (place + 1)) % 1.0 < 0.3}
        self._cluster.network.cut(cut)
        self._later(fault, self._cluster.network.heal)

    def _loss(self, fault: Fault) -> None:
        self._cluster.network.loss = 0.02
        self._later(fault, self._no_loss)

    def _no_loss(self) -> None:
        self._cluster.network.loss = 0.0

    def _etcd_down(self, fault: Fault) -> None:
        self._lose_etcd(fault, data=False)

    def _etcd_empty(self, fault: Fault) -> None:
        self._lose_etcd(fault, data=True)

    def _lose_etcd(self, fault: Fault, *, data: bool) -> None:
        registry = self._cluster.registry
        if registry.is_alive:
            registry.lose(data=data)
            self._later(fault, registry.come_back)

    def _watch_gaps(self, fault: Fault) -> None:
        self._cluster.registry.gap_share = 0.3
        self._later(fault, self._no_gaps)

    def _no_gaps(self) -> None:
        self._cluster.registry.gap_share = 0.0

    def _clock_step(self, fault: Fault) -> None:
        processes = list(self._cluster.living())
        process = processes[int(fault.choice * len(processes))]
        process.step_clock(int((fault.choice * 101 % 1.0 - 0.5) * SECOND))

    def _rolling_restart(self, fault: Fault) -> None:
        ranker = self._ranker(fault)
        if ranker is not None and not ranker.is_draining:
            ranker.drain(is_on=True)
            self._kernel.after(LEAVE_NS, self._leave, ranker)
            self._kernel.after(LEAVE_NS + fault.lasts_ns // 4, self._restart, ranker)

    def _new_model(self, fault: Fault) -> None:
        """An instance comes back with another version of the model; those that begin later have it too."""
        self._cluster.model_version = str(int(self._cluster.model_version) + 1)
        self._rolling_restart(fault)

    def _scale_out(self, fault: Fault) -> None:
        number = len(self._cluster.rankers)
        host = f"host-{int(fault.choice * self._cluster.settings.hosts)}"
        self._cluster.start_ranker(f"ranker-{number:04d}", host)

    def _scale_in(self, fault: Fault) -> None:
        ranker = self._ranker(fault, 2)
        if ranker is not None and not ranker.is_draining:
            ranker.drain(is_on=True)
            self._kernel.after(LEAVE_NS, self._leave, ranker)

    def _leave(self, ranker: Ranker) -> None:
        self._cluster.registry.withdraw(ranker)
        ranker.die()

    def _forget(self, fault: Fault) -> None:
        user = self._cluster.client.last_user
        if user is None:
            return
        for ranker in list(self._cluster.rankers.values()):
            if ranker.is_alive and not ranker.is_stopped:
                ranker.feed(UserForgotten(user))
