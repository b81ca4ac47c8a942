"""What tracing costs: `python -m bench.load.tracing [--rounds N] [--rate HZ] [--seconds S]`.

The traffic of bench.load.hops, the same in every phase, open loop, on clusters that export nothing, every trace, and
one of ten; and under load with the console killed, and stopped so that it holds connections and answers nothing.
Phases alternate: each round has all of them, in an order that turns. What is compared lies minutes apart at most.

The cost of a hop is what the median of Rank at the client grows by, over its hops; of the rounds the middle one counts.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from bench.load import hops
from demo.cluster import Cluster
from demo.processes import Supervisor
from relaygr.client import Ranking, RelayClient
from relaygr.telemetry import Telemetry

Disturb = Callable[[], Awaitable[None]]

RANK_HOPS = 2
"""Client to router, router to ranker."""
SERVICES = ("trigger", "router", "ranker", "expander")
DISTURB_AT = 0.2
"""Share of a phase after which the console is killed or stopped."""
RECOVER_S = 8.0
"""Exporters leave a collector that failed alone for five seconds."""


@dataclass(frozen=True)
class Setting:
    """How the processes of a cluster export, and what is measured while they do."""

    name: str
    sample_ratio: float | None
    """None: no export at all."""
    disturbed: tuple[str, ...] = ()
    """Further phases on the same cluster: of killed and paused."""


SETTINGS = (
    Setting("off", None),
    Setting("on", 1.0, ("killed", "paused")),
    Setting("sampled", 0.1),
)
PHASES = ("off", "on", "sampled", "killed", "paused")


@dataclass
class Seen:
    """What came of one phase, over all rounds."""

    rank_ms: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    """Of each round."""
    cpu_ms: list[float] = field(default_factory=list)
    """A request, without computing scores, of each round."""
    errors: int = 0

    def add(self, rankings: Sequence[Ranking], sent: int, cpu_ms: float) -> None:
        """Take a round."""
        rank_ms = [ranking.timings_ms["rank"] for ranking in rankings]
        self.rank_ms += rank_ms
        self.errors += sent - len(rankings)
        if rank_ms:
            self.p50_ms.append(statistics.median(rank_ms))
            self.cpu_ms.append(cpu_ms)

    def percentiles(self) -> dict[str, float]:
        """Pooled over the rounds; empty when nothing was ranked."""
        if not self.rank_ms:
            return {}
        return {f"p{q:g}": round(float(np.percentile(self.rank_ms, q)), 3) for q in (50.0, 99.0, 99.9)}


class Phases(hops.Hops):
    """The traffic of bench.load.hops, phase after phase on one running cluster."""

    async def run(self, setting: Setting, seen: dict[str, Seen]) -> None:
        """Warm up, measure undisturbed, and with the console disturbed."""
        endpoint = self._cluster.otlp_endpoint if setting.sample_ratio is not None else None
        telemetry = Telemetry.setup(
            "relaygr-client", "client", endpoint, b"tracing", sample_ratio=setting.sample_ratio or 1.0
        )
        addresses = self._cluster.addresses["trigger"], self._cluster.addresses["router"]
        client = RelayClient(*addresses, telemetry=telemetry, arrive_timeout_ms=1000.0, rank_deadline_ms=3000.0)
        async with client:
            await self._send(client, range(self._given.users), self._given.warm_rate)
            await self._phase(client, seen[setting.name])
            for name in setting.disturbed:
                await self._phase(client, seen[name], self._kill if name == "killed" else self._pause)
                await self._recover()
        await asyncio.to_thread(telemetry.shutdown)

    async def _phase(self, client: RelayClient, seen: Seen, disturb: Disturb | None = None) -> None:
        # The same users and candidates in every phase.
        self._rng = np.random.default_rng(self._given.seed)
        sent = int(self._given.rate * self._given.seconds)
        users = self._rng.integers(0, self._given.users, sent).tolist()
        before = hops.cpu_of(self._pids)
        async with asyncio.TaskGroup() as tasks:
            sending = tasks.create_task(self._send(client, users, self._given.rate))
            if disturb is not None:
                tasks.create_task(self._later(disturb))
        rankings, after = sending.result(), hops.cpu_of(self._pids)
        compute_ms = sum(ranking.timings_ms["rank.compute"] for ranking in rankings)
        spent_ms = 1e3 * sum(after[name] - before[name] for name in before)
        seen.add(rankings, sent, (spent_ms - compute_ms) / max(1, len(rankings)))

    async def _later(self, disturb: Disturb) -> None:
        await asyncio.sleep(DISTURB_AT * self._given.seconds)
        await disturb()

    async def _kill(self) -> None:
        await asyncio.to_thread(self._cluster.kill, "console")

    async def _pause(self) -> None:
        self._cluster.supervisor.pause("console")

    async def _recover(self) -> None:
        supervisor = self._cluster.supervisor
        if "console" in supervisor.ended():
            supervisor.restart("console")
            await asyncio.to_thread(supervisor.wait_ready, "console")
        else:
            supervisor.resume("console")
        await asyncio.sleep(RECOVER_S)


def measure(setting: Setting, given: argparse.Namespace, folder: Path, seen: dict[str, Seen]) -> None:
    """One setting of one round, on a cluster of its own."""
    planned = argparse.Namespace(**vars(given), collector=setting.sample_ratio is not None, bare=False)
    folder.mkdir(parents=True, exist_ok=True)
    plan = hops.plan_of(folder, planned)
    if setting.sample_ratio is not None:
        ratio = {"trace_sample_ratio": str(setting.sample_ratio)}
        overrides = {service: {**plan.overrides.get(service, {}), **ratio} for service in SERVICES}
        plan = replace(plan, overrides=overrides)
    with Supervisor(folder / "logs") as supervisor:
        cluster = Cluster(plan, supervisor)
        cluster.start()
        asyncio.run(Phases(cluster, planned).run(setting, seen))


def order_of(round_index: int) -> list[Setting]:
    """The settings, turned by one each round."""
    turn = round_index % len(SETTINGS)
    return [*SETTINGS[turn:], *SETTINGS[:turn]]


def cost_ms_per_hop(seen: dict[str, Seen], name: str) -> float | None:
    """The middle one of the rounds; None when a round ranked nothing."""
    off, on = seen["off"].p50_ms, seen[name].p50_ms
    if not off or len(off) != len(on):
        return None
    growth = [after - before for before, after in zip(off, on, strict=True)]
    return round(statistics.median(growth) / RANK_HOPS, 3)


def summed(seen: dict[str, Seen]) -> dict[str, object]:
    """The last line."""
    percentiles = {name: one.percentiles() for name, one in seen.items()}
    return {
        "cost_ms_per_hop": cost_ms_per_hop(seen, "on"),
        "cost_ms_per_hop_sampled": cost_ms_per_hop(seen, "sampled"),
        "errors": sum(one.errors for one in seen.values()),
        "p99_ms": {name: one.get("p99") for name, one in percentiles.items()},
        "p50_ms": {name: one.get("p50") for name, one in percentiles.items()},
        "p999_ms": {name: one.get("p99.9") for name, one in percentiles.items()},
        "counts": {name: len(one.rank_ms) for name, one in seen.items()},
        "cpu_ms": {name: round(statistics.median(one.cpu_ms), 3) for name, one in seen.items() if one.cpu_ms},
        "rounds_p50_ms": {name: [round(p50, 3) for p50 in one.p50_ms] for name, one in seen.items()},
    }


def table(seen: dict[str, Seen]) -> str:
    """What a person reads."""
    lines = [f"  {'phase':<9}{'P50 ms':>9}{'P99 ms':>9}{'P99.9 ms':>10}{'count':>8}{'errors':>8}{'CPU ms each':>13}"]
    for name, one in seen.items():
        at = one.percentiles()
        if at:
            spent = statistics.median(one.cpu_ms)
            times = f"{at['p50']:>9.2f}{at['p99']:>9.2f}{at['p99.9']:>10.2f}"
            lines.append(f"  {name:<9}{times}{len(one.rank_ms):>8}{one.errors:>8}{spent:>13.2f}")
        else:
            lines.append(f"  {name:<9}{'nothing was ranked':>28}{0:>8}{one.errors:>8}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Measure all rounds, print a table and the JSON line."""
    given = parser().parse_args(arguments)
    seen = {name: Seen() for name in PHASES}
    with tempfile.TemporaryDirectory(prefix="relaygr-tracing-") as name:
        folder = given.run_dir or Path(name)
        for number in range(given.rounds):
            for setting in order_of(number):
                print(f"round {number + 1} of {given.rounds}: {setting.name}", file=sys.stderr, flush=True)
                measure(setting, given, folder / f"{number}-{setting.name}", seen)
    found = summed(seen)
    print(table(seen), file=sys.stderr)
    print(
        f"  a hop costs {found['cost_ms_per_hop']} ms at the median, {found['cost_ms_per_hop_sampled']} ms when one "
        "trace of ten is recorded",
        file=sys.stderr,
    )
    print(json.dumps(found), flush=True)
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m bench.load.tracing", description=(__doc__ or "").partition("\n")[0])
    made.add_argument("--rounds", type=int, default=3, help="of all phases (3)")
    hops.add_traffic_options(made, rate_hz=20.0, users=32)
    return made


if __name__ == "__main__":
    raise SystemExit(main())
