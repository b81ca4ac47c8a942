"""What goes wrong in a scenario: at a given time, for a given time, to a share of the cluster.

Unlike the faults of `sim.faults`, which are drawn from a seed, these are written down.

Source: design, section 5; invariants I6, I7, I8.
"""

from __future__ import annotations

from collections.abc import Callable

from sim.cluster import Cluster
from sim.kernel import SECOND
from sim.nodes.ranker import Ranker

KINDS = (
    "lose_tenth",
    "rolling_restart",
    "scale_out",
    "etcd_loss",
    "etcd_empty",
    "partition",
    "slow_device",
    "expander_loss",
)
SLOWNESS = 3.0
LEAVE_NS = 1500 * 1_000_000
"""From the begin of a drain to the end of the process: longer than a window."""
BOOT_NS = 500 * 1_000_000
"""From the end of a process to the begin of the next one."""
SHARE = 10
"""One in so many is hit, at least one."""


class Mishaps:
    """Brings them about.

    Args:
        cluster: before it runs.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._kernel = cluster.kernel
        self._end_ns = int(cluster.settings.seconds * SECOND)

    def plan(self, kind: str, at_s: float, seconds: float) -> None:
        """Let something go wrong at a time, for so many seconds; 0: for good."""
        at_ns = int(at_s * SECOND)
        until_ns = min(at_ns + int(seconds * SECOND), self._end_ns)
        begin: Callable[..., None] = getattr(self, f"_{kind}")
        self._kernel.at(at_ns, begin, until_ns if seconds else 0)

    def _tenth(self) -> list[Ranker]:
        living = [ranker for ranker in self._cluster.rankers.values() if ranker.is_alive]
        return living[:: len(living) // max(1, len(living) // SHARE)][: max(1, len(living) // SHARE)]

    def _later(self, until_ns: int, action: Callable[..., object], *arguments: object) -> None:
        if until_ns:
            self._kernel.at(until_ns, action, *arguments)

    def _lose_tenth(self, until_ns: int) -> None:
        """SIGKILL, without a word to anybody."""
        for ranker in self._tenth():
            ranker.die()
            self._later(until_ns, self._boot, ranker)

    def _rolling_restart(self, until_ns: int) -> None:
        """Each instance in turn drains, ends and comes back; the last begins when the time is over."""
        rankers = [ranker for ranker in self._cluster.rankers.values() if ranker.is_alive]
        span_ns = max(0, until_ns - self._kernel.now_ns)
        for place, ranker in enumerate(rankers):
            self._kernel.after(span_ns * place // len(rankers), self._restart, ranker)

    def _restart(self, ranker: Ranker) -> None:
        ranker.drain(is_on=True)
        self._kernel.after(LEAVE_NS, self._leave, ranker)
        self._kernel.after(LEAVE_NS + BOOT_NS, self._boot, ranker)

    def _leave(self, ranker: Ranker) -> None:
        self._cluster.registry.withdraw(ranker)
        ranker.die()

    def _boot(self, ranker: Ranker) -> None:
        self._cluster.start_ranker(ranker.name, ranker.host)

    def _scale_out(self, until_ns: int) -> None:
        """A tenth more."""
        count = len(self._cluster.rankers)
        for number in range(count, count + max(1, count // SHARE)):
            self._cluster.start_ranker(f"ranker-{number:04d}", f"host-{number % self._cluster.settings.hosts}")

    def _etcd_loss(self, until_ns: int) -> None:
        self._cluster.registry.lose(data=False)
        self._later(until_ns, self._cluster.registry.come_back)

    def _etcd_empty(self, until_ns: int) -> None:
        self._cluster.registry.lose(data=True)
        self._later(until_ns, self._cluster.registry.come_back)

    def _partition(self, until_ns: int) -> None:
        """The hosts of a tenth reach nobody."""
        self._cluster.network.cut({ranker.host for ranker in self._tenth()})
        self._later(until_ns, self._cluster.network.heal)

    def _slow_device(self, until_ns: int) -> None:
        for ranker in self._tenth():
            ranker.device.slowness = SLOWNESS
            self._later(until_ns, self._quick, ranker)

    @staticmethod
    def _quick(ranker: Ranker) -> None:
        ranker.device.slowness = 1.0

    def _expander_loss(self, until_ns: int) -> None:
        """What a tenth of the hosts kept in DRAM is gone."""
        expanders = self._cluster.expanders
        for host in list(expanders)[: max(1, len(expanders) // SHARE)]:
            expanders[host].die()
            self._later(until_ns, self._cluster.start_expander, host)
