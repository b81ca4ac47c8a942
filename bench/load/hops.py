"""What a relayed request costs beside its compute: `python -m bench.load.hops [--collector] [--rate HZ]`.

Starts a cluster on a random model and made-up histories, sends requests at a fixed rate through the
client library and prints, of ranks on device-resident psi, the overhead (latency seen by the client
less the ranker's compute) by part, and the CPU time of each process per request. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from demo.cluster import Cluster, ClusterPlan
from demo.processes import Supervisor
from relaygr.behaviours.build import build_from_rows
from relaygr.behaviours.log import Rows
from relaygr.client import Ranking, RelayClient
from relaygr.domain.identity import ModelLimits
from relaygr.errors import RelayError
from relaygr.model import checkpoint
from relaygr.model.config import ModelConfig
from relaygr.telemetry import Telemetry

ITEMS = 50_000
LIMITS = ModelLimits(
    window_behaviours_max=2048, window_step_behaviours=512, delta_behaviours_max=64, candidates_max=1024
)
NOW_S = 1_700_000_000
_START_NS = 200_000_000
_REST_S = 3.0
_MODEL_SEED = 5


def main(arguments: list[str] | None = None) -> int:
    """Start, send, print."""
    given = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="relaygr-hops-") as name:
        folder = given.run_dir or Path(name)
        with Supervisor(folder / "logs") as supervisor:
            cluster = Cluster(plan_of(folder, given), supervisor)
            cluster.start()
            found = asyncio.run(Hops(cluster, given).measure())
    print(json.dumps(found), flush=True)
    return 0


class Hops:
    """One measurement of a running cluster."""

    def __init__(self, cluster: Cluster, given: argparse.Namespace) -> None:
        self._cluster = cluster
        self._given = given
        self._rng = np.random.default_rng(given.seed)
        self._late_ms: list[float] = []
        self._bare_ms: list[float] = []
        self._channel: grpc.aio.Channel | None = None
        self._pids = {name: cluster.supervisor.pid(name) for name in ("trigger", "router", *cluster.ranker_names)}
        self._pids["client"] = os.getpid()

    async def measure(self) -> dict[str, object]:
        """Warm up, send for the given time, and sum up."""
        telemetry = Telemetry.setup("relaygr-client", "client", self._cluster.otlp_endpoint or None, b"hops")
        addresses = self._cluster.addresses["trigger"], self._cluster.addresses["router"]
        client = RelayClient(*addresses, telemetry=telemetry, arrive_timeout_ms=1000.0, rank_deadline_ms=3000.0)
        async with client:
            await self._send(client, range(self._given.users), self._given.warm_rate)
            idle_ms = await self._idle()
            before = cpu_of(self._pids)
            users = self._rng.integers(0, self._given.users, int(self._given.rate * self._given.seconds))
            rankings = await self._send(client, users.tolist(), self._given.rate)
            after = cpu_of(self._pids)
        if self._channel is not None:
            await self._channel.close()
        await asyncio.to_thread(telemetry.shutdown)
        return self._summed(rankings, before, after) | {"idle_cpu_ms_per_s": idle_ms}

    async def _idle(self) -> dict[str, float]:
        """CPU milliseconds a second of processes that nobody asks anything."""
        await asyncio.sleep(_REST_S)
        before = cpu_of(self._pids)
        await asyncio.sleep(_REST_S)
        after = cpu_of(self._pids)
        idle_ms = {name: round(1e3 * (after[name] - before[name]) / _REST_S, 2) for name in before}
        print(f"  CPU ms a second when idle: {idle_ms}", file=sys.stderr)
        return idle_ms

    async def _send(self, client: RelayClient, users: Sequence[int], rate_hz: float) -> list[Ranking]:
        self._late_ms.clear()
        start_ns = time.monotonic_ns() + _START_NS
        async with asyncio.TaskGroup() as tasks:
            asked = []
            for index, user in enumerate(users):
                due_ns = start_ns + int(index * 1e9 / rate_hz)
                await asyncio.sleep(max(0.0, (due_ns - time.monotonic_ns()) / 1e9))
                asked.append(tasks.create_task(self._one(client, user, due_ns)))
        return [ranking for task in asked if (ranking := task.result()) is not None]

    async def _one(self, client: RelayClient, user: int, due_ns: int) -> Ranking | None:
        items = self._rng.integers(1, ITEMS, self._given.candidates)
        try:
            relay = await client.arrive(
                user=user,
                candidate_count=self._given.candidates,
                rank_budget_ms=0.001,
                time_to_rank_ms=self._given.gap_ms,
                rank_latest_ms=1000.0,
            )
            async with relay:
                rank_ns = due_ns + int(self._given.gap_ms * 1e6)
                await asyncio.sleep(max(0.0, (rank_ns - time.monotonic_ns()) / 1e9))
                self._late_ms.append((time.monotonic_ns() - rank_ns) / 1e6)
                ranking = await relay.rank(items, request_time_s=NOW_S)
            if self._given.bare:
                await self._bare_hop()
            return ranking
        except RelayError as error:
            print(f"not ranked: {error}", file=sys.stderr)
            return None

    async def _bare_hop(self) -> None:
        """One unary call without anything of ours: what gRPC itself takes of each of the two hops."""
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(self._cluster.addresses["router"])
        began_ns = time.monotonic_ns()
        await health_pb2_grpc.HealthStub(self._channel).Check(health_pb2.HealthCheckRequest(), timeout=_REST_S)
        self._bare_ms.append((time.monotonic_ns() - began_ns) / 1e6)

    def _summed(
        self, rankings: list[Ranking], before: Mapping[str, float], after: Mapping[str, float]
    ) -> dict[str, object]:
        on_psi = [ranking for ranking in rankings if ranking.tier == "DEVICE"]
        parts = [_parts_of(ranking) for ranking in on_psi]
        print(f"{len(rankings)} ranked, {len(on_psi)} on device-resident psi", file=sys.stderr)
        line: dict[str, object] = {"ranked": len(rankings), "on_psi": len(on_psi), "collector": self._given.collector}
        for name in parts[0] if parts else ():
            values = [part[name] for part in parts]
            p50, p99 = (float(np.percentile(values, q)) for q in (50, 99))
            print(f"  {name:<22} P50 {p50:7.3f} ms   P99 {p99:7.3f} ms", file=sys.stderr)
            line[name] = [round(p50, 3), round(p99, 3)]
        compute_ms = sum(ranking.timings_ms["rank.compute"] for ranking in rankings) / max(1, len(rankings))
        cpu_ms = {name: 1e3 * (after[name] - before[name]) / max(1, len(rankings)) for name in before}
        host_ms = sum(cpu_ms.values()) - compute_ms
        print(f"  {'late in the client':<22} P50 {np.percentile(self._late_ms, 50):7.3f} ms", file=sys.stderr)
        if self._bare_ms:
            line["bare_hop_ms"] = round(float(np.percentile(self._bare_ms, 50)), 3)
            print(f"  {'bare gRPC hop':<22} P50 {line['bare_hop_ms']:7.3f} ms", file=sys.stderr)
        print(
            "  CPU ms a request: "
            + ", ".join(f"{name} {ms:.2f}" for name, ms in cpu_ms.items())
            + f"; without rank.compute {host_ms:.2f}",
            file=sys.stderr,
        )
        return line | {"cpu_ms": {name: round(ms, 3) for name, ms in cpu_ms.items()}, "host_cpu_ms": round(host_ms, 3)}


def _parts_of(ranking: Ranking) -> dict[str, float]:
    seen = ranking.timings_ms
    inside = seen["rank.prepare"] + seen["rank.queue"] + seen["rank.join"] + seen["rank.compute"]
    return {
        "relay_overhead_ms": seen["rank"] - seen["rank.compute"],
        "hops_ms": seen["rank"] - seen["rank.total"],
        "prepare_ms": seen["rank.prepare"],
        "queue_ms": seen["rank.queue"],
        "rest_of_ranker_ms": seen["rank.total"] - inside,
        "compute_ms": seen["rank.compute"],
        "arrive_ms": seen["arrive"],
    }


def cpu_of(pids: Mapping[str, int]) -> dict[str, float]:
    """CPU seconds so far of each process, of the threads it has now."""
    return {name: sum(_thread_seconds(pid).values()) for name, pid in pids.items()}


def _thread_seconds(pid: int) -> dict[int, float]:
    # The scheduler's own count: that of /proc/<pid>/stat is sampled, and misses bursts shorter than a tick.
    seconds = {}
    for path in Path(f"/proc/{pid}/task").iterdir():
        seconds[int(path.name)] = int((path / "schedstat").read_text().split()[0]) / 1e9
    return seconds


def plan_of(folder: Path, given: argparse.Namespace) -> ClusterPlan:
    """A cluster on a store and a model that are written into the folder first."""
    _write_store(folder / "store", given)
    _write_model(folder / "model")
    return ClusterPlan(
        run_dir=folder / "run",
        model_dir=folder / "model",
        store_dir=folder / "store",
        device_budget_bytes=given.device_mib << 20,
        dram_budget_bytes=256 << 20,
        overrides={"ranker": {"dtype": "bfloat16"}, "trigger": {"footprint_share": "0.9", "pre_infer_share": "0.9"}},
        without=() if given.collector else ("console",),
    )


def _write_store(folder: Path, given: argparse.Namespace) -> None:
    rng = np.random.default_rng(given.seed)
    chunks = []
    for user in range(given.users):
        count = int(given.behaviours * rng.uniform(0.9, 1.1))
        times_s = NOW_S - 4_000_000 + np.cumsum(rng.integers(1, 3000, count))
        items, actions = rng.integers(1, ITEMS, count), rng.integers(1, 6, count)
        chunks.append(Rows(np.full(count, user), items, times_s, actions.astype(np.int32)))
    build_from_rows(chunks, folder)


def _write_model(folder: Path) -> None:
    config = ModelConfig(
        name="hops",
        version="1",
        layers=4,
        width=256,
        heads=4,
        qk_dim=64,
        v_dim=64,
        normaliser=1024,
        items=ITEMS,
        actions=6,
        positions=4096,
        tasks=("click", "like"),
        limits=LIMITS,
        dtype="bfloat16",
        head_width=64,
    )
    checkpoint.save(checkpoint.random_model(config, np.arange(1, ITEMS + 1), _MODEL_SEED), folder)


def add_traffic_options(parser: argparse.ArgumentParser, *, rate_hz: float, users: int) -> None:
    """What is sent, to how large a cluster, and where its logs go; the rate and the users have these defaults."""
    parser.add_argument("--rate", type=float, default=rate_hz, help=f"requests a second ({rate_hz:g})")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long they are sent, each time (20)")
    parser.add_argument("--users", type=int, default=users, help=f"users, all warmed up before ({users})")
    parser.add_argument("--warm-rate", type=float, default=10.0, help="requests a second of the warm-up (10)")
    parser.add_argument("--behaviours", type=int, default=1000, help="of a user, on average (1000)")
    parser.add_argument("--candidates", type=int, default=256, help="of a request (256)")
    parser.add_argument("--gap-ms", type=float, default=60.0, help="from arrive to rank (60)")
    parser.add_argument("--device-mib", type=int, default=320, help="device budget of each ranker (320)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--run-dir", type=Path, help="keep logs there")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.load.hops", description=(__doc__ or "").partition("\n")[0])
    add_traffic_options(parser, rate_hz=15.0, users=48)
    parser.add_argument("--collector", action="store_true", help="with spans and metrics exported")
    parser.add_argument("--bare", action="store_true", help="with a bare gRPC call after each, for comparison")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
