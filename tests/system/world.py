"""A whole cluster of real processes on a small random model and made-up histories."""

from __future__ import annotations

import asyncio
import csv
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np

from demo.cluster import ClusterPlan
from relaygr.behaviours.build import build_store
from relaygr.behaviours.columns import FeatureSpec
from relaygr.client import Ranking, Relay, RelayClient
from relaygr.domain.identity import ModelLimits
from relaygr.model import checkpoint
from relaygr.model.config import ModelConfig
from relaygr.model.init import new_model
from relaygr.telemetry import Telemetry
from services.router.direct import DirectRanks

USERS = 40
FRESH_USERS = range(100, 108)
"""Users with a history whom only a test that needs a stranger asks for."""
ITEMS = np.arange(1, 501)
CANDIDATES = 64
CROSS_WIDTH = 3
LIMITS = ModelLimits(
    window_behaviours_max=1024, window_step_behaviours=256, delta_behaviours_max=64, candidates_max=256
)
SCORE_DIFFERENCE_MOST = 1e-5
AT_RISK_MS = 0.001
"""A ranking budget that no full inference meets."""
NO_RISK_MS = 10_000.0
LATEST_MS = 500.0
DEVICE_PAGES = 32
PAGE_BYTES = 2 * 2 * (32 + 32) * 128 * 4


def write_store(folder: Path) -> Path:
    """Histories of 150 to 900 behaviours."""
    rng = np.random.default_rng(11)
    log = folder / "log.csv"
    with log.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("user", "item", "timestamp", "action"))
        for user in (*range(USERS), *FRESH_USERS):
            count = int(rng.integers(150, 900))
            times_s = 1_600_000_000 + np.cumsum(rng.integers(1, 3000, count))
            columns = (rng.choice(ITEMS, count), times_s, rng.integers(1, 6, count))
            rows.writerows((user, *row) for row in zip(*(column.tolist() for column in columns), strict=True))
    build_store(log, folder / "store")
    return folder / "store"


def write_model(folder: Path) -> Path:
    """A random model of two layers."""
    config = ModelConfig(
        name="system",
        version="1",
        layers=2,
        width=64,
        heads=2,
        qk_dim=32,
        v_dim=32,
        normaliser=512,
        items=len(ITEMS),
        actions=6,
        positions=1100,
        tasks=("click", "like"),
        features=FeatureSpec(cross_dense=CROSS_WIDTH),
        limits=LIMITS,
        head_width=32,
    )
    checkpoint.save(new_model(config, ITEMS, seed=3), folder / "model")
    return folder / "model"


def small_plan(folder: Path) -> ClusterPlan:
    """Room for a few users' psi on each device, and for all of them in DRAM."""
    return ClusterPlan(
        run_dir=folder / "run",
        model_dir=write_model(folder),
        store_dir=write_store(folder),
        device_budget_bytes=DEVICE_PAGES * PAGE_BYTES,
        dram_budget_bytes=96 * 1024 * 1024,
        # One caller at a time must be able to have the whole device.
        overrides={"trigger": {"footprint_share": "0.9", "pre_infer_share": "0.9"}},
    )


@asynccontextmanager
async def client_of(cluster, telemetry: Telemetry | None = None, *, direct: DirectRanks | None = None):
    """A client with a patience that a loaded machine needs; `direct`: its ranks pass the router by."""
    addresses = cluster.addresses["trigger"], cluster.addresses["router"]
    async with RelayClient(
        *addresses, telemetry=telemetry, arrive_timeout_ms=1000.0, rank_deadline_ms=5000.0, direct=direct
    ) as client:
        yield client


async def relay_once(
    client: RelayClient, user: str | int, *, wait_s: float = 0.05, budget_ms: float = AT_RISK_MS, verify: bool = True
) -> tuple[str, Ranking]:
    """One request; its decision and its ranking."""
    relay = await client.arrive(
        user=user, candidate_count=CANDIDATES, rank_budget_ms=budget_ms, rank_latest_ms=LATEST_MS
    )
    async with relay:
        with relay.stage("retrieval"):
            await asyncio.sleep(wait_s)
        ranking = await relay.rank(ITEMS[:CANDIDATES], request_time_s=1_700_000_000, verify=verify)
    return relay.decision, ranking


async def arrive_admitted(client: RelayClient, user: str | int, *, latest_ms: float = LATEST_MS) -> Relay:
    """An arrival, repeated while the windows of earlier requests leave no room on the device."""
    found: list[Relay] = []

    async def is_admitted() -> bool:
        found.append(
            await client.arrive(
                user=user, candidate_count=CANDIDATES, rank_budget_ms=AT_RISK_MS, rank_latest_ms=latest_ms
            )
        )
        if not found[-1].admitted:
            await found[-1].release()
        return found[-1].admitted

    await until(is_admitted, f"user {user} is admitted")
    return found[-1]


async def relay_admitted(client: RelayClient, user: str | int, *, wait_s: float = 0.05, verify: bool = True) -> Ranking:
    """Like relay_once, of a request that is surely admitted."""
    relay = await arrive_admitted(client, user)
    async with relay:
        await asyncio.sleep(wait_s)
        return await relay.rank(ITEMS[:CANDIDATES], request_time_s=1_700_000_000, verify=verify)


async def until(condition: Callable[[], Awaitable[bool]], what: str, timeout_s: float = 20.0) -> None:
    """Ask again and again until it holds; fail with `what` when it does not in time."""
    deadline_s = time.monotonic() + timeout_s
    while not await condition():
        assert time.monotonic() < deadline_s, f"not within {timeout_s} s: {what}"
        await asyncio.sleep(0.02)
