"""A router process under users who come once each, beside a hop that only passes bytes on.

For each user: a Resolve by the router, then the same Rank with a ticket through the hop and through the router, some
thousands at a time and in turns, so that what else the machine does meets both. Latency is taken with one call at a
time, since under more of them it is the rate that one sees.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.load.hops import cpu_of
from bench.router.choices import MODEL, record_of, rss_of_mib, say
from bench.router.hop import ROUTER_RANK, unread
from demo.cluster import free_addresses, is_serving
from demo.processes import ProcessSpec, Supervisor
from relaygr.domain.instance import InstanceRecord
from relaygr.registry import Registry, keys
from relaygr.registry import server as etcd
from relaygr.rpc.channel import ChannelPool
from relaygr.rpc.identity import model_to_pb
from relaygr.rpc.tickets import encode_ticket
from relaygr.telemetry import Telemetry
from relaygr.v1 import common_pb2, ranker_pb2, router_pb2

RESOLVE = "/relaygr.v1.RouterService/Resolve"
_KEY = b"router benchmark key"
_CANDIDATES = 256
_BLOCK = 2_000
"""Users made at a time, outside of what is timed."""
_ALONE = 100
"""Of each block, sent one at a time."""
_TIMEOUT_S = 10.0
_WINDOW_NS = 500_000_000
_CUT = common_pb2.Cut(anchor=0, behaviour_count=300, digest=b"d" * 16)

Call = Callable[[bytes], Any]


async def measured_for_real(given: argparse.Namespace) -> dict[str, Any]:
    """Start everything, send, sum up, stop."""
    with tempfile.TemporaryDirectory(prefix="relaygr-router-") as name:
        folder = Path(name)
        with Supervisor(folder / "logs") as supervisor:
            addresses = dict(zip(_NAMES, free_addresses(len(_NAMES)), strict=True))
            _start(supervisor, folder, addresses)
            telemetry = Telemetry.setup("relaygr-bench", "bench", None, b"bench")
            pool = ChannelPool(telemetry)
            try:
                records = [record_of(number, address=addresses["stub"]) for number in range(max(given.instances))]
                await _register(addresses["etcd"], records)
                pids = {name: supervisor.pid(name) for name in ("router", "hop", "stub")}
                line = await _Run(given, pool, addresses, records, pids).measured()
                return line | {"router_tables": await _tables(pids["router"], folder / _SIZES)}
            finally:
                await pool.close()
                telemetry.shutdown()


_SIZES = "sizes.json"
_NAMES = ("etcd", "etcd-peer", "router", "hop", "stub")


def _start(supervisor: Supervisor, folder: Path, addresses: dict[str, str]) -> None:
    hop = (sys.executable, "-m", "bench.router.hop", "--address")
    commands = {
        "etcd": tuple(etcd.command(folder / "etcd", addresses["etcd"], addresses["etcd-peer"])),
        "stub": (*hop, addresses["stub"]),
        "hop": (*hop, addresses["hop"], "--to", addresses["stub"]),
        "router": (sys.executable, "-m", "bench.router.watched", "--sizes", str(folder / _SIZES)),
    }
    settings = {"address": addresses["router"], "registry": addresses["etcd"], "ticket_key": _KEY.hex()}
    environment = {f"RELAYGR_ROUTER_{key.upper()}": value for key, value in settings.items()}
    for name, command in commands.items():
        ready = (lambda: etcd.is_healthy(addresses["etcd"], 1.0)) if name == "etcd" else _serving(addresses[name])
        own = environment if name == "router" else {}
        supervisor.start(ProcessSpec(name=name, command=command, environment=own, is_ready=ready))
        supervisor.wait_ready(name)


async def _tables(pid: int, path: Path) -> dict[str, Any]:
    """How full the router's tables are at the end: what is in each, and the most that may be."""
    os.kill(pid, signal.SIGUSR1)
    async with asyncio.timeout(_TIMEOUT_S):
        while not path.exists():  # noqa: ASYNC110, ASYNC240 - another process writes it
            await asyncio.sleep(0.05)
    tables: dict[str, Any] = json.loads(path.read_text())  # noqa: ASYNC240 - a small file
    over = [name for name, (size, most) in tables.items() if size > most]
    say(f"tables of the router, and their most: {tables}")
    assert not over, f"beyond their bounds: {over}"
    return tables


def _serving(address: str) -> Callable[[], bool]:
    return lambda: is_serving(address)


async def _register(endpoint: str, records: Sequence[InstanceRecord]) -> None:
    registry = Registry((endpoint,))
    for record in records:
        await registry.put(keys.instance_key(record.instance_id), record.to_json())
    async with asyncio.timeout(_TIMEOUT_S):
        while await registry.get(keys.slots_key(MODEL.key)) is None:  # noqa: ASYNC110 - etcd is asked
            await asyncio.sleep(0.1)
    await registry.close()


class _Run:
    """One measurement of running processes."""

    def __init__(
        self,
        given: argparse.Namespace,
        pool: ChannelPool,
        addresses: dict[str, str],
        records: Sequence[InstanceRecord],
        pids: dict[str, int],
    ) -> None:
        self._given = given
        self._records = records
        self._pids = pids
        calls = {name: pool.get(addresses[name]).unary_unary(ROUTER_RANK, unread, unread) for name in ("hop", "router")}
        self._ranks: dict[str, Call] = {name: _with_timeout(call) for name, call in calls.items()}
        self._resolve = _with_timeout(pool.get(addresses["router"]).unary_unary(RESOLVE, unread, unread))
        self._alone_ms: dict[str, list[float]] = {"hop": [], "router": []}
        self._rates: dict[str, list[float]] = {"hop": [], "router": []}
        self._cpu_us: dict[str, list[float]] = {"hop": [], "router": []}
        self._resolve_rates: list[float] = []

    async def measured(self) -> dict[str, Any]:
        """All users, and what they saw."""
        rss_mib = {"start": rss_of_mib(self._pids["router"])}
        marks = {"tenth": self._given.calls // 10, "middle": self._given.calls // 2, "end": self._given.calls}
        for block, first in enumerate(range(0, self._given.calls, _BLOCK)):
            users = range(first, min(first + _BLOCK, self._given.calls))
            await self._block(users, ("hop", "router") if block % 2 else ("router", "hop"))
            for name in [name for name, calls in marks.items() if users.stop >= calls]:
                rss_mib.setdefault(name, rss_of_mib(self._pids["router"]))
        growth = round(rss_mib["end"] / rss_mib["middle"], 3)
        line = self._summed() | {"router_rss_mib": rss_mib, "router_rss_growth": growth}
        say(f"router with {len(self._records)} instances, {self._given.calls} users: {line}")
        return line

    async def _block(self, users: range, order: Iterable[str]) -> None:
        resolves = [_resolve_of(user) for user in users]
        began_s = time.perf_counter()
        await self._all(self._resolve, resolves)
        self._resolve_rates.append(len(resolves) / (time.perf_counter() - began_s))
        ranks = [_rank_of(user, self._records[user % len(self._records)]) for user in users]
        for name in order:
            for request in ranks[:_ALONE]:
                began_s = time.perf_counter()
                await self._ranks[name](request)
                self._alone_ms[name].append((time.perf_counter() - began_s) * 1e3)
            pid = {name: self._pids[name]}
            before_s, began_s = cpu_of(pid)[name], time.perf_counter()
            await self._all(self._ranks[name], ranks)
            self._rates[name].append(len(ranks) / (time.perf_counter() - began_s))
            self._cpu_us[name].append(1e6 * (cpu_of(pid)[name] - before_s) / len(ranks))

    async def _all(self, call: Call, requests: Sequence[bytes]) -> None:
        """As many at a time as asked for."""
        left = iter(requests)

        async def work() -> None:
            for request in left:
                await call(request)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._given.concurrency):
                tasks.create_task(work())

    def _summed(self) -> dict[str, Any]:
        p50_ms = {name: round(statistics.median(seen), 3) for name, seen in self._alone_ms.items()}
        rate_hz = {name: round(statistics.median(seen)) for name, seen in self._rates.items()}
        ratios = [router / hop for router, hop in zip(self._rates["router"], self._rates["hop"], strict=True)]
        return {
            "p50_ms": p50_ms,
            "p99_ms": {name: round(_percentile(seen, 99), 3) for name, seen in self._alone_ms.items()},
            "rate_hz": rate_hz,
            "cpu_us_a_call": {name: round(statistics.median(seen), 1) for name, seen in self._cpu_us.items()},
            "resolve_rate_hz": round(statistics.median(self._resolve_rates)),
            "added_p50_ms": round(p50_ms["router"] - p50_ms["hop"], 3),
            "rate_ratio": round(statistics.median(ratios), 3),
            "calls": self._given.calls,
            "concurrency": self._given.concurrency,
        }


def _percentile(seen: Sequence[float], percent: int) -> float:
    return statistics.quantiles(seen, n=100)[percent - 1]


def _with_timeout(call: Any) -> Call:
    return lambda request: call(request, timeout=_TIMEOUT_S)


def _resolve_of(user: int) -> bytes:
    return router_pb2.ResolveRequest(
        user=str(user), will_admit=True, window_ns=_WINDOW_NS, expected_ns=30_000_000, rank_on_psi_ns=5_000_000
    ).SerializeToString()


def _rank_of(user: int, record: InstanceRecord) -> bytes:
    claims = common_pb2.TicketClaims(
        ticket_id=f"t-{user}",
        trigger_id="bench",
        tenant="default",
        user=str(user),
        instance_id=record.instance_id,
        instance_epoch=record.epoch,
        model=model_to_pb(record.model),
        cut=_CUT,
        issued_unix_ns=time.time_ns(),
        expires_unix_ns=time.time_ns() + 60_000_000_000,
    )
    rank = ranker_pb2.RankRequest(
        user=str(user),
        request_id=f"r-{user}",
        ticket=encode_ticket(claims, _KEY),
        history=common_pb2.History(cut=_CUT),
        candidates=ranker_pb2.Candidates(count=_CANDIDATES, item_ids=bytes(8 * _CANDIDATES)),
    )
    return router_pb2.RouterServiceRankRequest(rank=rank).SerializeToString()
