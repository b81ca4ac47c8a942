"""A deployment under virtual time: builds the processes, knows who is where, and lets it run.

Source: design, sections 3 and 6.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from relaygr.domain.instance import InstanceRecord, InstanceState
from services.router.core.slots import next_table
from sim.ablations import admission_of, binding_of, ranker_of
from sim.checks import Checked, Checks, demand
from sim.kernel import MS, SECOND, Kernel
from sim.network import Network
from sim.nodes.client import Client
from sim.nodes.expander import Expander
from sim.nodes.pool import Links, Pool, pool_name
from sim.nodes.process import Process
from sim.nodes.ranker import Ranker
from sim.nodes.registry import Registry
from sim.nodes.router import Router
from sim.nodes.trigger import Trigger
from sim.population import Source
from sim.record import Record
from sim.settings import Settings, model_of
from sim.shaped import population_of

REST_NS = 100 * SECOND
"""After the last request: longer than any window, tombstone or back-off, so that nothing may be left."""


class Cluster:
    """Everything of one run."""

    def __init__(self, settings: Settings, source: Source | None = None, record: Record | None = None) -> None:
        """Requests are drawn when no `source` of them is given; `record` takes their ends."""
        self.settings = settings
        self.kernel = Kernel(settings.seed)
        self.checks = Checks(is_full=settings.checks == "full")
        self.network = Network(
            self.kernel, delay_ns=settings.delay_ns, spread=settings.delay_spread, local_ns=settings.local_ns
        )
        slo = settings.profile.slo
        self.record = record or Record(int(slo.rank_ms * MS), int(slo.end_to_end_ms * MS))
        self._clocks = self.kernel.chance("clocks")
        self._boots = 0
        self.rankers: dict[str, Ranker] = {}
        self.expanders: dict[str, Expander] = {}
        self.routers: dict[str, Router] = {}
        self.triggers: dict[str, Trigger] = {}
        self.registry = Registry(self.kernel, settings, self.network)
        self.network.place("registry", self.registry)
        self.model_version = "1"
        self._links = Links(settings.link_bytes_per_s)
        self._build()
        source = source or population_of(self.kernel, settings)
        self.client = Client(self.kernel, settings, self.network, source, self.record)
        self.network.place("client", self.client)

    def run(self) -> None:
        """All requests, and then a rest in which everything must come to an end.

        Raises:
            AssertionError: a core's invariant or a rule of the design does not hold.
        """
        self.begin()
        self.kernel.run(int(self.settings.seconds * SECOND))
        self.rest()

    def begin(self) -> None:
        """Have the first request sent when it is due; time is the caller's to let pass."""
        self.checks.everything = self._machines
        self.kernel.on_event = self.checks.after_event
        self.client.begin()

    def rest(self) -> None:
        """Let time pass until windows, leases and tombstones have ended; then nothing may be left (I7)."""
        self.kernel.run(self.kernel.now_ns + REST_NS)
        self.checks.all_now()
        demand(self.client.open == 0, "I6", f"{self.client.open} requests were never answered")
        for process in self.living():
            demand(getattr(process, "is_idle", True), "I7", f"{process.name} has not come to rest")
        for ranker in (one for one in self.rankers.values() if one.is_alive):
            left = ranker.core.snapshot().open_tickets
            demand(left == 0, "I7", f"{ranker.name} holds {left} tickets")
        for expander in (one for one in self.expanders.values() if one.is_alive):
            seen = expander.core.occupancy()
            left = seen.pins + seen.staging_blocks + seen.quarantined_blocks + seen.doomed_blocks
            demand(left == 0, "I7", f"{expander.name} has not let go: {seen}")

    # Who is there

    def start_ranker(self, name: str, host: str) -> Ranker:
        """A boot of an instance, under an epoch of its own."""
        settings = self.settings
        record = InstanceRecord(
            instance_id=name,
            address=name,
            host=host,
            epoch=self._next_boot(),
            model=model_of(self.model_version),
            limits=settings.limits,
            cost=settings.cost,
            device_budget_bytes=settings.device_budget_bytes,
            pre_infer_share=settings.profile.deployment.pre_infer_share,
            state=InstanceState.READY,
        )
        ranker = ranker_of(settings.ablation)(
            self.kernel,
            name,
            host,
            record=record,
            settings=settings,
            network=self.network,
            checks=self.checks,
            expander=partial(self._expander_at, host) if settings.has_dram else None,
            **self._clock(),
        )
        self.rankers[name] = ranker
        self.network.place(name, ranker)
        ranker.changed = self._announce
        if ranker.dram is not None:
            ranker.dram.beat()
        self._keep(ranker, "ranker")
        return ranker

    def start_expander(self, host: str) -> Expander:
        """A boot of a host's expander; what an earlier one held is lost."""
        expander = Expander(
            self.kernel,
            f"expander-{host}",
            host,
            boot=self._next_boot(),
            settings=self.settings,
            checks=self.checks,
            offset_ns=self._clock()["offset_ns"],
        )
        self.expanders[host] = expander
        return expander

    def start_router(self, name: str) -> Router:
        """A boot of a router."""
        binding = binding_of(self.settings.ablation)
        router = Router(
            self.kernel,
            name,
            f"host-of-{name}",
            binding=binding,
            settings=self.settings,
            network=self.network,
            checks=self.checks,
            **self._clock(),
        )
        self.routers[name] = router
        self.network.place(name, router)
        self.registry.watch(router)
        router.planner.begin()
        self._keep(router, "router")
        return router

    def start_trigger(self, name: str) -> Trigger:
        """A boot of a trigger; each begins with a router of its own."""
        names = [f"router-{number}" for number in range(self.settings.routers)]
        first = int(name.rpartition("-")[2]) % len(names)
        trigger = Trigger(
            self.kernel,
            name,
            f"host-of-{name}",
            admission=admission_of(self.settings.ablation),
            settings=self.settings,
            network=self.network,
            checks=self.checks,
            routers=names[first:] + names[:first],
            **self._clock(),
        )
        self.triggers[name] = trigger
        self.network.place(name, trigger)
        self._keep(trigger, "trigger")
        return trigger

    def _build(self) -> None:
        settings = self.settings
        self.registry.begin()
        for number in range(settings.hosts):
            name = pool_name(number)
            if settings.has_dram and settings.ablation != "remote_pool":
                self.start_expander(f"host-{number}")
            elif settings.ablation == "remote_pool":
                self.network.place(name, Pool(self.kernel, name, f"host-{number}", settings, self.network, self._links))
        for number in range(settings.instances):
            self.start_ranker(f"ranker-{number:04d}", f"host-{number // settings.instances_per_host}")
        for number in range(settings.triggers):
            self.start_trigger(f"trigger-{number}")
        # Everybody is registered before the first router looks, and the first table is there.
        records = {ranker.name: ranker.record for ranker in self.rankers.values()}
        for ranker in self.rankers.values():
            self.registry.keep(ranker, "ranker", ranker.record)
        for trigger in self.triggers.values():
            self.registry.keep(trigger, "trigger", None)
        weights = {name: record.device_budget_bytes for name, record in records.items()}
        table = next_table(None, weights)
        if table is not None:
            self.registry.preset(model_of(self.model_version).key, table)
        for number in range(settings.routers):
            self.start_router(f"router-{number}")
        self.kernel.run(50 * MS)

    def _keep(self, process: Process, kind: str) -> None:
        """Keep a lease alive, three times in its life."""
        if not process.is_alive:
            return
        record = process.record if isinstance(process, Ranker) else None
        self.network.call(process, "registry", "keep", _nobody, process, kind, record)
        process.after(self.settings.lease_ns // 3, self._keep, process, kind)

    def _announce(self, ranker: Ranker) -> None:
        self.network.call(ranker, "registry", "keep", _nobody, ranker, "ranker", ranker.record)

    def _expander_at(self, host: str) -> Expander | None:
        expander = self.expanders.get(host)
        return expander if expander is not None and expander.is_alive and not expander.is_stopped else None

    def _next_boot(self) -> int:
        self._boots += 1
        return self._boots

    def _clock(self) -> dict[str, Any]:
        """Clocks of one process: it began some time ago, and its wall clock is a little wrong."""
        skew_ns = int(self._clocks.gauss(0.0, self.settings.skew_ns))
        return {"offset_ns": self._clocks.randrange(1, 1000) * SECOND, "skew_ns": skew_ns}

    def living(self) -> Iterator[Process]:
        """All processes that are alive, but clients and etcd."""
        for group in (self.rankers, self.expanders, self.routers, self.triggers):
            yield from (process for process in group.values() if process.is_alive)

    def _machines(self) -> list[Checked]:
        found: list[Checked] = []
        for process in self.living():
            found.append(process.core)  # type: ignore[attr-defined]
            if isinstance(process, Ranker):
                found.append(process.device.schedule)
        return found


def _nobody(*_: Any) -> None:
    """The registry is not there; the next time it may be."""
