"""Every signal of the registry is emitted by every service that must emit it, and nothing else is."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from relaygr.telemetry import names
from tests.system.signal_matrix import must_emit, undeclared, unseen
from tests.system.signal_traffic import Target, Traffic, drive, get_json
from tests.system.world import CANDIDATES, ITEMS, USERS

pytestmark = pytest.mark.timeout(300)

SEEN_WITHIN_S = 120.0
"""Metrics come every five seconds, and a gauge must be read while something is in it."""


def target_of(cluster) -> Target:
    lost, *left = cluster.ranker_names

    async def lose() -> None:
        cluster.kill(lost)
        await asyncio.to_thread(cluster.wait_settled, left)

    async def regain() -> None:
        cluster.supervisor.restart(lost)
        await asyncio.to_thread(cluster.wait_settled, cluster.ranker_names)

    return Target(
        trigger=cluster.addresses["trigger"],
        router=cluster.addresses["router"],
        otlp=cluster.otlp_endpoint,
        users=[str(user) for user in range(USERS)],
        items=ITEMS[:CANDIDATES].tolist(),
        rankers=[cluster.addresses[name] for name in cluster.ranker_names],
        expander=cluster.addresses["expander"],
        lose_ranker=lose,
        regain_ranker=regain,
    )


async def test_every_declared_signal_is_seen_from_who_must_emit_it_and_no_other(cluster):
    async def look() -> dict[str, Any]:
        return await asyncio.to_thread(get_json, f"{cluster.console_url}/api/signals")

    async def until_all_is_seen(traffic: Traffic) -> None:
        deadline_s = time.monotonic() + SEEN_WITHIN_S
        while unseen(await look()) and time.monotonic() < deadline_s:
            await traffic.burst()

    assert await drive(target_of(cluster), then=until_all_is_seen) == []
    signals = await look()
    assert unseen(signals) == []
    assert undeclared(signals) == []


async def test_what_must_stay_zero_is_told_and_is_zero(cluster):
    expected = {event for events in names.MUST_BE_ZERO.values() for event in events}

    async def told() -> list[dict[str, Any]]:
        overview = await asyncio.to_thread(get_json, f"{cluster.console_url}/api/overview")
        return list(overview["must_be_zero"])

    deadline_s = time.monotonic() + 30.0
    while {one["event"] for one in await told()} != expected:
        assert time.monotonic() < deadline_s, f"{await told()} instead of {sorted(expected)}"
        await asyncio.sleep(0.5)
    assert [one for one in await told() if one["value"]] == []


def test_a_missing_and_a_foreign_signal_are_found():
    spans, metrics = must_emit("router")
    whole = {
        "spans": dict.fromkeys(spans, 1),
        "metrics": {name: {"points": 1, "is_nonzero": True} for name in metrics},
    }
    of_router = {"services": {"relaygr-router": whole}}
    assert not [text for text in unseen(of_router) if text.startswith("router")] and not undeclared(of_router)
    del whole["spans"][names.SPAN_ROUTE_CHOOSE]
    whole["metrics"][names.METRIC_ROUTE_FENCES] = {"points": 1, "is_nonzero": False}
    whole["spans"][names.SPAN_RANK_COMPUTE] = 1
    assert [text for text in unseen(of_router) if text.startswith("router")] == [
        f"router: span {names.SPAN_ROUTE_CHOOSE}",
        f"router: metric {names.METRIC_ROUTE_FENCES} is zero",
    ]
    assert undeclared(of_router) == [f"router: span {names.SPAN_RANK_COMPUTE}"]
