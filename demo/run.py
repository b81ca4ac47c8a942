"""The steps of the demo, each timed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from demo.budget import psi_bytes, rank_budget_ns, token_bytes_of
from demo.cluster import Cluster, ClusterPlan, describe_ranker
from demo.disturbance import Killed, disturb
from demo.outcome import Outcome, Totals, totals
from demo.plan import PlannedRequest, Traffic, plan
from demo.processes import Supervisor, run_foreground
from demo.replay import Replay, Replayed, ReplaySettings
from demo.report import Printer, Promise, broken, promises
from relaygr.behaviours.store import FileStore
from relaygr.domain.chain import PAGE_TOKENS
from relaygr.rpc.identity import cost_from_pb
from relaygr.telemetry import Telemetry
from trainer.data import MOVIELENS
from trainer.requests import read_requests
from trainer.split import split_store

DEVICE_SHARE = 0.1
"""Each ranker's device holds this share of all users' psi; a ranker serves about half of the users."""
DEVICE_PAGES_LEAST = 36
DRAM_SHARE = 1.5
"""The expander holds all psi, with room for those that grow."""
DRAM_BYTES_LEAST = 64 * 1024 * 1024
VERIFY_EVERY = 8
_TRACE_TIMEOUT_S = 6.0


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line."""

    data: str
    requests: int
    rate: float
    seed: int
    minutes: float
    kill: str | None
    keep: bool
    run_dir: Path
    cache_dir: Path


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What training left, and the planned replay."""

    folder: Path
    store: FileStore
    titles: dict[int, str]
    metrics: dict[str, Any]
    planned: list[PlannedRequest]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What came of the replay."""

    line: dict[str, Any]
    """The last line."""
    outcomes: list[Outcome]
    totals: Totals
    held: list[Promise]


class Demo:
    """Runs the steps in order; says what it does and how long it took."""

    def __init__(self, options: Options, console: Console) -> None:
        self._options = options
        self._console = console
        self._seconds: dict[str, float] = {}

    def prepare(self) -> Prepared:
        """Train, or reuse what an earlier run has trained; plan the replay.

        Raises:
            DemoError: the data cannot be used.
        """
        folder = self._options.cache_dir.resolve() / _folder_name(self._options.data)
        with self._step("train", f"training on {self._options.data}"):
            code = run_foreground(
                (
                    *(sys.executable, "-m", "trainer", "--data", _absolute(self._options.data)),
                    *("--out", str(folder), "--minutes", str(self._options.minutes)),
                ),
                {},
            )
            if code:
                raise DemoError(f"training failed with code {code}")
        store = FileStore(folder / "store")
        asked = read_requests(folder / "replay.jsonl")
        count = self._options.requests
        if count > len(asked) and self._is_own_data:
            self._console.print(f"the later part of the log gives {len(asked)} requests; all are replayed")
            count = len(asked)
        try:
            planned = plan(asked, store, Traffic(requests=count, rate_hz=self._options.rate, seed=self._options.seed))
        except ValueError as error:
            raise DemoError(str(error)) from error
        if len({request.asked.user for request in planned}) < 2:
            raise DemoError("the later part of the log has fewer than two users")
        return Prepared(
            folder=folder,
            store=store,
            titles={int(item): title for item, title in json.loads((folder / "titles.json").read_text()).items()},
            metrics=json.loads((folder / "metrics.json").read_text()),
            planned=planned,
        )

    def start(self, prepared: Prepared, supervisor: Supervisor) -> Cluster:
        """Start the cluster with budgets that make the relay necessary."""
        run_dir = self._options.run_dir.resolve()
        with self._step("start", "starting etcd, trigger, router, two rankers, expander, console"):
            token_bytes = token_bytes_of(prepared.folder / "checkpoint")
            psi = psi_bytes(prepared.planned, token_bytes)
            catalogue = run_dir / "catalogue.npy"
            np.save(catalogue, _catalogue(prepared.store))
            cluster = Cluster(
                ClusterPlan(
                    run_dir=run_dir,
                    model_dir=prepared.folder / "checkpoint",
                    store_dir=prepared.folder / "store",
                    device_budget_bytes=max(int(DEVICE_SHARE * psi), DEVICE_PAGES_LEAST * PAGE_TOKENS * token_bytes),
                    dram_budget_bytes=max(int(DRAM_SHARE * psi), DRAM_BYTES_LEAST),
                    published={"titles": str(prepared.folder / "titles.json"), "catalogue": str(catalogue)},
                ),
                supervisor,
            )
            cluster.start()
        return cluster

    async def replay(self, prepared: Prepared, cluster: Cluster) -> Found:
        """Replay, compare, sum up."""
        planned = prepared.planned
        costs = [cost_from_pb(describe_ranker(cluster.addresses[name]).cost) for name in cluster.ranker_names]
        budget_ns = rank_budget_ns(planned, costs, self._options.rate)
        self._console.print(
            f"ranking budget {budget_ns / 1e6:.2f} ms: about half of the requests are at risk by the rankers' own "
            "cost models"
        )
        telemetry = Telemetry.setup("relaygr-client", "client", cluster.otlp_endpoint, b"relaygr-demo")
        settings = ReplaySettings(
            trigger=cluster.addresses["trigger"],
            router=cluster.addresses["router"],
            rank_budget_ms=budget_ns / 1e6,
            verify_every=VERIFY_EVERY,
        )
        with self._step("replay", f"replaying {len(planned)} requests at {self._options.rate:g} a second"):
            replayed, killed = await self._replay_with_kill(Replay(settings, telemetry), cluster, planned)
            await asyncio.to_thread(telemetry.shutdown)
        if killed is not None:
            self._tell_of(killed, replayed.outcomes)
        with self._step("compare", "scoring with another user's psi"):
            wrong = await asyncio.to_thread(self._wrong_psi_difference, prepared)
            trace = await _trace_page(cluster.traces_dir, replayed.outcomes)
        return self._found(prepared, replayed, wrong, budget_ns, trace)

    def report(self, prepared: Prepared, found: Found) -> list[str]:
        """Print the report; the promises that were broken."""
        printer = Printer(self._console)
        self._console.rule("recommendations")
        printer.titles(found.outcomes, prepared.titles)
        self._console.rule("ranking by tier")
        printer.tiers(found.outcomes, found.line["rank_budget_ms"])
        printer.totals(found.totals)
        self._console.rule("promises")
        missing = broken(found.held, own_data=self._is_own_data, killed=self._options.kill is not None)
        printer.promises(found.held, missing)
        errors = {outcome.error for outcome in found.outcomes if outcome.error}
        for error in sorted(errors)[:5]:
            self._console.print(f"  error: {error}", markup=False)
        self._console.print(f"  trace of one request: {found.line['trace']}")
        self._console.print(f"  all traces: {self._options.run_dir.resolve()}/traces/index.html")
        for text in missing:
            self._console.print(f"demo: not held: {text}", markup=False)
        return missing

    @property
    def _is_own_data(self) -> bool:
        return self._options.data != MOVIELENS

    async def _replay_with_kill(
        self, replay: Replay, cluster: Cluster, planned: list[PlannedRequest]
    ) -> tuple[Replayed, Killed | None]:
        if self._options.kill is None:
            return await replay.run(planned), None
        async with asyncio.TaskGroup() as tasks:
            disturbing = tasks.create_task(
                disturb(cluster, self._options.kill, planned[-1].arrives_s, lambda line: print(f"\n{line}"))
            )
            replaying = tasks.create_task(replay.run(planned))
        return replaying.result(), disturbing.result()

    def _tell_of(self, killed: Killed, outcomes: list[Outcome]) -> None:
        served = sum(outcome.instance_id == killed.name for outcome in outcomes)
        if any(outcome.instance_id.startswith("ranker") and killed.name.startswith("ranker") for outcome in outcomes):
            after = sum(
                outcome.instance_id == killed.name and outcome.planned.index > 2 * len(outcomes) // 3
                for outcome in outcomes
            )
            self._console.print(f"{killed.name} ranked {served} requests, {after} of them after its restart")
        self._console.print(f"{killed.name} was away for {(killed.ready_ns - killed.killed_ns) / 1e9:.1f} s")

    def _wrong_psi_difference(self, prepared: Prepared) -> float:
        # Here, because torch takes seconds to import and nothing else of the demo needs it.
        from demo.exactness import wrong_psi_difference

        return wrong_psi_difference(prepared.folder / "checkpoint", prepared.store, prepared.planned)

    def _found(self, prepared: Prepared, replayed: Replayed, wrong: float, budget_ns: int, trace: str) -> Found:
        seen = totals(replayed.outcomes)
        metrics = prepared.metrics
        line = {
            **asdict(seen),
            "score_diff_max": max(replayed.score_differences, default=float("inf")),
            "auc": metrics["auc"] or 0.0,
            "auc_popularity": metrics["auc_popularity"] or 0.0,
            "trace": trace,
            "wrong_psi_diff": wrong,
            "verified": len(replayed.score_differences),
            "hit_rate_10": metrics["hit_rate_10"],
            "hit_rate_10_popularity": metrics["hit_rate_10_popularity"],
            "rank_budget_ms": round(budget_ns / 1e6, 3),
            "data": self._options.data,
            "seed": self._options.seed,
            "rate_hz": self._options.rate,
            "killed": self._options.kill,
            "seconds": {name: round(seconds, 1) for name, seconds in self._seconds.items()},
        }
        held = promises(line, self._options.requests)
        return Found(line=line, outcomes=replayed.outcomes, totals=seen, held=held)

    @contextmanager
    def _step(self, name: str, text: str) -> Iterator[None]:
        self._console.print(f"[bold]{text}[/bold]")
        started_s = time.monotonic()
        yield
        self._seconds[name] = time.monotonic() - started_s
        self._console.print(f"  {name}: {self._seconds[name]:.1f} s")


async def _trace_page(folder: Path, outcomes: list[Outcome]) -> str:
    """A page of a late request that was ranked on psi, once the console has written it."""
    wanted = [outcome.trace_id for outcome in outcomes if outcome.tier not in ("", "FULL") and outcome.is_admitted]
    deadline_s = time.monotonic() + _TRACE_TIMEOUT_S
    while time.monotonic() < deadline_s:
        for trace_id in reversed(wanted):
            if (folder / f"{trace_id}.html").exists():
                return str(folder / f"{trace_id}.html")
        await asyncio.sleep(0.1)
    return ""


def _catalogue(store: FileStore) -> Any:
    """Items that the model knows, the popular ones first."""
    split = split_store(store)
    return split.catalogue[np.argsort(-split.popularity, kind="stable")]


def _folder_name(data: str) -> str:
    if data == MOVIELENS:
        return data
    # Logs of one name in two places are two logs.
    place = hashlib.blake2b(_absolute(data).encode(), digest_size=4).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', Path(data).stem)[:40]}-{place}"


def _absolute(data: str) -> str:
    return data if data == MOVIELENS else str(Path(data).resolve())
