"""A whole deployment on this machine: etcd, trigger, router, two rankers, expander, console.

What differs from a real one is written here and nowhere else: free ports on loopback, secrets
drawn for the run, one thread of compute for each ranker, and limits that suit one machine.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from demo.certificates import Certificates
from demo.processes import ProcessFailed, ProcessSpec, Supervisor
from relaygr.registry import server as etcd
from relaygr.v1 import ranker_pb2, ranker_pb2_grpc, router_pb2, router_pb2_grpc

HOST = "127.0.0.1"
_PROBE_TIMEOUT_S = 0.5
_POLL_S = 0.05
_STRANGERS = 32
"""Users asked for to see where the router places people: two rankers are both among 32 but once in 2^31."""


@dataclass(frozen=True, kw_only=True)
class ClusterPlan:
    """What to start and with which budgets."""

    run_dir: Path
    model_dir: Path
    store_dir: Path
    device_budget_bytes: int
    """Of each ranker."""
    dram_budget_bytes: int
    """Of the expander."""
    rankers: int = 2
    routers: int = 1
    etcds: int = 1
    """Members of the registry; it serves while most of them live."""
    registry_ttl_s: float = 2.0
    """How long a killed ranker stays in the view of those that have not called it."""
    published: Mapping[str, str] = field(default_factory=dict)
    """More entries for cluster.json, such as where the titles are."""
    overrides: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """More settings by process name or by service, by variable name."""
    without: Collection[str] = ()
    """Of console and expander, those not started."""
    commands: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By service: what Python runs instead of `-m services.<service>`, with its arguments."""
    extra: Callable[[Cluster], Sequence[ProcessSpec]] = lambda cluster: ()
    """More processes, started before the services."""
    tls: bool = False
    """Whether the services speak TLS, with certificates of an authority made for the run; needs openssl."""
    reach: Callable[[str, str, str], str] = lambda caller, callee, address: address
    """Where a caller finds a callee that serves at the address: a test puts something in between."""


class Cluster:
    """Starts the processes of a plan and knows their addresses."""

    def __init__(self, plan: ClusterPlan, supervisor: Supervisor) -> None:
        self._plan = plan
        self._supervisor = supervisor
        self._ticket_key = secrets.token_hex(32)
        self._user_hash_key = secrets.token_hex(16)
        self._deployment = deployment_of(plan.run_dir)
        self.ranker_names = tuple(f"ranker-{number + 1}" for number in range(plan.rankers))
        self.router_names = _numbered("router", plan.routers)
        self.etcd_names = _numbered("etcd", plan.etcds)
        peers = [f"{name}-peer" for name in self.etcd_names]
        fronts = (*self.etcd_names, *peers, "console", "otlp", "trigger", *self.router_names)
        names = (*fronts, "expander", *self.ranker_names)
        self.addresses = dict(zip(names, free_addresses(len(names)), strict=True))
        servers = ("trigger", *self.router_names, "expander", *self.ranker_names)
        self.certificates = Certificates(plan.run_dir / "tls", self._deployment, servers) if plan.tls else None
        """Of the processes and of who calls them; None on plain text."""
        self.traces_dir = plan.run_dir / "traces"
        self.file = plan.run_dir / "cluster.json"

    @property
    def supervisor(self) -> Supervisor:
        """Its processes."""
        return self._supervisor

    def start(self) -> None:
        """Start everything and wait until it is up; then write cluster.json.

        Raises:
            ProcessFailed: names the process that did not come up.
        """
        shutil.rmtree(self._plan.run_dir / "etcd", ignore_errors=True)
        shutil.rmtree(self.traces_dir, ignore_errors=True)
        consoles = [self._console()] if self.has("console") else []
        first = [*map(self._etcd, self.etcd_names), *consoles, *self._plan.extra(self)]  # noqa: S610
        for spec in first:
            self._supervisor.start(spec)
        self._supervisor.wait_ready(*(spec.name for spec in first))
        expanders = [self._expander()] if self.has("expander") else []
        services = [
            *expanders,
            *map(self._router, self.router_names),
            self._trigger(),
            *map(self._ranker, self.ranker_names),
        ]
        for spec in services:
            self._supervisor.start(spec)
        self._supervisor.wait_ready(*(spec.name for spec in services), timeout_s=60.0)
        self.wait_settled(self.ranker_names)
        self.file.write_text(json.dumps(self.describe(), indent=2) + "\n")

    def has(self, name: str) -> bool:
        """Whether the plan starts a process that it may do without."""
        return name not in self._plan.without

    def wait_settled(self, rankers: Collection[str], timeout_s: float = 20.0) -> None:
        """Wait until the router places users on exactly these rankers.

        Raises:
            ProcessFailed: it does not within the time.
        """
        deadline_s = time.monotonic() + timeout_s
        with self.channel("router") as channel:
            router = router_pb2_grpc.RouterServiceStub(channel)
            while (found := _placed_on(router)) != set(rankers):
                if time.monotonic() > deadline_s:
                    text = f"the router places users on {sorted(found)}, not on {sorted(rankers)}"
                    raise ProcessFailed(f"{text}\n{self._supervisor.log_tail('router')}")
                time.sleep(_POLL_S)

    def describe(self) -> dict[str, object]:
        """What cluster.json says: where a client finds the parts."""
        plan = self._plan
        return {
            "trigger": self.addresses["trigger"],
            "router": ",".join(self.addresses[name] for name in self.router_names),
            "rankers": [self.addresses[name] for name in self.ranker_names],
            "expander": self.addresses["expander"],
            "etcd": self.addresses["etcd"],
            "otlp": self.otlp_endpoint,
            "console": self.console_url,
            "store_dir": str(plan.store_dir),
            "model_dir": str(plan.model_dir),
            "traces": str(self.traces_dir),
            **(self.certificates.settings("operator") if self.certificates is not None else {}),
            **plan.published,
        }

    def channel(self, server: str, caller: str = "operator") -> grpc.Channel:
        """A blocking channel to a process, by its name.

        Args:
            server: router, trigger, expander or a ranker's name.
            caller: whose certificate is shown under TLS.
        """
        if self.certificates is None:
            return grpc.insecure_channel(self.addresses[server])
        return grpc.secure_channel(
            self.addresses[server], self.certificates.credentials(caller), self.certificates.options(server)
        )

    def aio_channel(self, server: str, caller: str = "operator") -> grpc.aio.Channel:
        """The same for asyncio."""
        if self.certificates is None:
            return grpc.aio.insecure_channel(self.addresses[server])
        return grpc.aio.secure_channel(
            self.addresses[server], self.certificates.credentials(caller), self.certificates.options(server)
        )

    def tls_settings(self, name: str = "client") -> dict[str, Any]:
        """The client library's TLS arguments, for a process or `client`; none on plain text."""
        return {**self.certificates.settings(name)} if self.certificates is not None else {}

    @property
    def otlp_endpoint(self) -> str:
        """Where spans and metrics go; empty without a console."""
        return f"http://{self.addresses['otlp']}" if self.has("console") else ""

    @property
    def console_url(self) -> str:
        """The page; empty without a console."""
        return f"http://{self.addresses['console']}" if self.has("console") else ""

    def kill(self, name: str) -> None:
        """SIGKILL one process."""
        self._supervisor.kill(name)

    def restart(self, name: str, timeout_s: float = 30.0) -> None:
        """Start a killed process again and wait until it is up."""
        self._supervisor.restart(name)
        self._supervisor.wait_ready(name, timeout_s=timeout_s)

    def _etcd(self, name: str) -> ProcessSpec:
        data_dir, address = self._plan.run_dir / "etcd" / name, self.addresses[name]
        peers = {each: self.addresses[f"{each}-peer"] for each in self.etcd_names}
        command = etcd.command(data_dir, address, peers.pop(name), name=name, others=peers)
        return ProcessSpec(
            name=name,
            command=tuple(command),
            environment={},
            is_ready=lambda: etcd.is_healthy(address, _PROBE_TIMEOUT_S),
            stops_last=True,
        )

    def _console(self) -> ProcessSpec:
        otlp, page = self.addresses["otlp"], self.addresses["console"]
        command = (sys.executable, "-m", "console", "--otlp", otlp, "--http", page, "--out", str(self.traces_dir))
        return ProcessSpec(
            name="console",
            command=command,
            environment={},
            is_ready=lambda: is_serving(otlp),
            stops_last=True,
        )

    def _expander(self) -> ProcessSpec:
        return self._service(
            "expander",
            "expander",
            {"segment_bytes": str(self._plan.dram_budget_bytes), "deployment": self._deployment},
        )

    def _router(self, name: str) -> ProcessSpec:
        router_id = f"router-{self.router_names.index(name) + 1}"
        return self._service(
            "router", name, {**self._registry(name), "ticket_key": self._ticket_key, "router_id": router_id}
        )

    def _trigger(self) -> ProcessSpec:
        return self._service(
            "trigger",
            "trigger",
            {
                **self._registry("trigger"),
                "ticket_key": self._ticket_key,
                "trigger_id": "trigger-1",
                "router": ",".join(self._reached("trigger", name) for name in self.router_names),
                "store": str(self._plan.store_dir),
            },
        )

    def _ranker(self, name: str) -> ProcessSpec:
        return self._service(
            "ranker",
            name,
            {
                **self._registry(name),
                "ticket_key": self._ticket_key,
                "instance_id": name,
                # Routers find it there; they learn it from the registry.
                "advertised_address": self._reached("router", name),
                "model": str(self._plan.model_dir),
                "store": str(self._plan.store_dir),
                "expander": self._reached(name, "expander") if self.has("expander") else "",
                "device_budget_bytes": str(self._plan.device_budget_bytes),
                "threads": "1",
            },
        )

    def _registry(self, caller: str) -> dict[str, str]:
        endpoints = ",".join(self._reached(caller, name) for name in self.etcd_names)
        return {"registry": endpoints, "registry_ttl_s": str(self._plan.registry_ttl_s)}

    def _reached(self, caller: str, callee: str) -> str:
        return self._plan.reach(caller, callee, self.addresses[callee])

    def _service(self, service: str, name: str, settings: Mapping[str, str]) -> ProcessSpec:
        address = self.addresses[name]
        overrides = {**self._plan.overrides.get(service, {}), **self._plan.overrides.get(name, {})}
        otlp = f"http://{self._reached(name, 'otlp')}" if self.has("console") else ""
        common = {"address": address, "otlp_endpoint": otlp, "user_hash_key": self._user_hash_key}
        every = {**common, **self.tls_settings(name), **settings, **overrides}
        # OMP_NUM_THREADS: numpy and torch would each take every core, in every process.
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        variables = {f"RELAYGR_{service.upper()}_{key.upper()}": value for key, value in every.items()}
        return ProcessSpec(
            name=name,
            command=(sys.executable, *self._plan.commands.get(service, ("-m", f"services.{service}"))),
            environment={**threads, **variables},
            is_ready=lambda: self.is_serving(name),
        )

    def describe_ranker(self, name: str, timeout_s: float = 2.0) -> ranker_pb2.DescribeResponse:
        """A ranker's own description.

        Raises:
            grpc.RpcError: it does not answer.
        """
        with self.channel(name) as channel:
            stub = ranker_pb2_grpc.RankerServiceStub(channel)
            return stub.Describe(ranker_pb2.DescribeRequest(), timeout=timeout_s)

    def is_serving(self, name: str) -> bool:
        """True when a service's standard health check says SERVING."""
        with self.channel(name) as channel:
            return _says_serving(channel)


def _numbered(name: str, count: int) -> tuple[str, ...]:
    """The first bears the plain name."""
    return (name, *(f"{name}-{number}" for number in range(2, count + 1)))


def deployment_of(run_dir: Path) -> str:
    """Name of the deployment that runs there: what a killed expander left in /dev/shm, the next one removes."""
    return "demo." + hashlib.blake2b(str(run_dir.resolve()).encode(), digest_size=6).hexdigest()


def _placed_on(router: router_pb2_grpc.RouterServiceStub) -> set[str]:
    """Instances that strangers' slots lead to."""
    found = set()
    for number in range(_STRANGERS):
        request = router_pb2.ResolveRequest(user=f"stranger-{number}")
        try:
            found.add(router.Resolve(request, timeout=_PROBE_TIMEOUT_S).instance_id)
        except grpc.RpcError:
            return set()
    return found


def free_addresses(count: int) -> list[str]:
    """Loopback addresses whose ports nobody listens on, all different."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((HOST, 0))
        return [f"{HOST}:{one.getsockname()[1]}" for one in sockets]


def is_serving(address: str) -> bool:
    """True when the standard health service of a server on plain text says SERVING."""
    with grpc.insecure_channel(address) as channel:
        return _says_serving(channel)


def _says_serving(channel: grpc.Channel) -> bool:
    try:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=_PROBE_TIMEOUT_S)
    except grpc.RpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def describe_ranker(address: str, timeout_s: float = 2.0) -> ranker_pb2.DescribeResponse:
    """The own description of a ranker on plain text.

    Raises:
        grpc.RpcError: it does not answer.
    """
    with grpc.insecure_channel(address) as channel:
        return ranker_pb2_grpc.RankerServiceStub(channel).Describe(ranker_pb2.DescribeRequest(), timeout=timeout_s)
