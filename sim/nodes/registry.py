"""etcd as its users see it: leases, watches that lag and break, a table that is swapped, and its loss.

A watch keeps its order. One whose events were compacted away, or that was cut off, gets a listing instead.

Source: design, section 6, invariant I8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from relaygr.domain.instance import InstanceRecord
from services.router.core.effects import PinUser
from services.router.core.events import Departed, Event, Listed, Registered, TableRead
from services.router.core.slots import SlotTable
from sim.kernel import MS, Kernel
from sim.network import Network
from sim.nodes.process import Process
from sim.nodes.router import Router
from sim.settings import Settings

SWEEP_NS = 250 * MS
LAG_NS = 2 * MS
"""Least time from a write to a watcher."""


class Registry(Process):
    """The whole of etcd as one process on a host of its own."""

    def __init__(self, kernel: Kernel, settings: Settings, network: Network) -> None:
        super().__init__(kernel, "registry", "registry-host")
        self._lease_ns = settings.lease_ns
        self._network = network
        self._random = kernel.chance("registry")
        self._records: dict[str, InstanceRecord] = {}
        self._members: dict[str, str] = {}
        """Kinds of all that holds a lease, by name."""
        self._leases: dict[str, int] = {}
        self._tables: dict[str, SlotTable] = {}
        self._watchers: dict[str, Router] = {}
        self._told_ns: dict[str, int] = {}
        self._behind: set[str] = set()
        self.gap_share = 0.0
        """Share of events that are compacted away before a watcher has them."""

    def begin(self) -> None:
        """Sweep leases from now on."""
        self.after(SWEEP_NS, self._sweep)

    def preset(self, model_key: str, table: SlotTable) -> None:
        """A table that is there from the beginning."""
        self._tables[model_key] = table

    def watch(self, router: Router) -> None:
        """A router follows, beginning with a listing."""
        self._watchers[router.name] = router
        self._members[router.name] = "router"
        self._leases[router.name] = self.kernel.now_ns + self._lease_ns
        self._list_to(router)

    def keep(self, source: Process, kind: str, record: InstanceRecord | None) -> None:
        """A lease is kept alive, or a record put."""
        self._leases[source.name] = self.kernel.now_ns + self._lease_ns
        is_new = source.name not in self._members
        self._members[source.name] = kind
        if record is not None and self._records.get(source.name) != record:
            self._records[source.name] = record
            self._tell_all(Registered(record))
        if is_new and kind == "trigger":
            self._count_triggers()
        if isinstance(source, Router) and self._watchers.get(source.name) is not source:
            self.watch(source)

    def withdraw(self, source: Process) -> None:
        """Leave in order."""
        self._remove(source.name)

    def pin(self, source: Router, pin: PinUser, expires_unix_ns: int) -> None:
        """A router placed a user off its slot; the others hear of it."""
        for router in self._watchers.values():
            if router is not source:
                self._tell(router, router.pin_read, pin, expires_unix_ns)

    def read_table(self, source: Router, model_key: str) -> None:
        """What is stored; only the elected router is answered."""
        elected = min((name for name, kind in self._members.items() if kind == "router"), default=None)
        if source.name == elected:
            table = self._tables.get(model_key)
            self._network.reply(self, source, source.planner.table_answered, model_key, table)

    def swap_table(self, source: Router, model_key: str, version: int, table: SlotTable) -> None:
        """Write a table if nobody wrote since."""
        stored = self._tables.get(model_key)
        if (stored.version if stored is not None else 0) == version:
            self._tables[model_key] = table
            self._tell_all(TableRead(model_key, table))

    def lose(self, *, data: bool) -> None:
        """All members of etcd are gone, with or without what they held."""
        self.is_alive = False
        if data:
            self._records, self._members, self._leases, self._tables = {}, {}, {}, {}

    def come_back(self) -> None:
        """A majority is there again: leases begin anew, watches list."""
        self.is_alive = True
        for name in self._leases:
            self._leases[name] = self.kernel.now_ns + self._lease_ns
        for router in self._watchers.values():
            self._list_to(router)
        self.begin()

    def _sweep(self) -> None:
        now_ns = self.kernel.now_ns
        for name in [name for name, end_ns in self._leases.items() if end_ns <= now_ns]:
            self._remove(name)
        for name in sorted(self._behind):
            router = self._watchers.get(name)
            if router is not None and self._network.can_reach(self, router):
                self._behind.discard(name)
                self._list_to(router)
        self.after(SWEEP_NS, self._sweep)

    def _remove(self, name: str) -> None:
        self._leases.pop(name, None)
        kind = self._members.pop(name, None)
        if self._records.pop(name, None) is not None:
            self._tell_all(Departed(name))
        if kind == "trigger":
            self._count_triggers()
        if kind == "router":
            self._watchers.pop(name, None)
            self._behind.discard(name)

    def _count_triggers(self) -> None:
        count = sum(kind == "trigger" for kind in self._members.values())
        for router in self._watchers.values():
            self._tell(router, router.triggers_changed, count)

    def _tell_all(self, event: Event) -> None:
        for router in self._watchers.values():
            self._tell(router, router.feed, event)

    def _tell(self, router: Router, handler: Callable[..., None], *message: Any) -> None:
        """In order; a watcher that cannot be reached, or whose events were compacted, lists later."""
        if router.name in self._behind:
            return
        is_gap = self.gap_share > 0 and self._random.random() < self.gap_share
        if is_gap or not self._network.can_reach(self, router):
            self._behind.add(router.name)
            return
        at_ns = self.kernel.now_ns + LAG_NS + int(self._random.random() * LAG_NS)
        at_ns = self._told_ns[router.name] = max(at_ns, self._told_ns.get(router.name, 0))
        self.kernel.at(at_ns, router.take, handler, message)

    def _list_to(self, router: Router) -> None:
        for model_key, table in self._tables.items():
            self._tell(router, router.feed, TableRead(model_key, table))
        self._tell(router, router.feed, Listed(tuple(self._records[name] for name in sorted(self._records))))
        count = sum(kind == "trigger" for kind in self._members.values())
        self._tell(router, router.triggers_changed, count)
