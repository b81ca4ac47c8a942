"""Every signal of the registry is emitted by every service that must emit it, and nothing else is.

The matrix is emitted_by in ops/telemetry.yaml; calls are those of the protos.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from relaygr.telemetry import names
from relaygr.v1 import expander_pb2, ranker_pb2, router_pb2, trigger_pb2
from tests.system.signal_traffic import Target, Traffic, drive, get_json
from tests.system.world import CANDIDATES, ITEMS, USERS

pytestmark = pytest.mark.timeout(300)

SERVED_BY = {"trigger": trigger_pb2, "router": router_pb2, "ranker": ranker_pb2, "expander": expander_pb2}
CALLS = {"client": ("trigger", "router"), "trigger": ("router",), "router": ("ranker",), "ranker": ("expander",)}
UNSAMPLED = {"relaygr.v1.ExpanderService/Attach"}
"""Heartbeats, which would drown everything else."""
SEEN_WITHIN_S = 120.0
"""Metrics come every five seconds, and a gauge must be read while something is in it."""


def served(service: str) -> set[str]:
    """Names of the spans of a service's own methods."""
    (found,) = SERVED_BY[service].DESCRIPTOR.services_by_name.values()
    return {f"{found.full_name}/{method}" for method in found.methods_by_name} - UNSAMPLED


def must_emit(service: str) -> tuple[set[str], set[str]]:
    """Spans and metrics."""
    declared = {name for name, emitters in names.EMITTED_BY.items() if service in emitters}
    metrics = declared & names.INSTRUMENTS.keys()
    return declared - metrics | (served(service) if service in SERVED_BY else set()), metrics


def may_emit(service: str) -> set[str]:
    """Spans: its own, and those of the calls that it makes."""
    return must_emit(service)[0].union(*(served(peer) for peer in CALLS.get(service, ())))


SERVICES = ("client", *SERVED_BY)


def unseen(signals: dict[str, Any]) -> list[str]:
    """What is declared and was not seen, or was zero all the time."""
    found = []
    for service in SERVICES:
        seen = signals["services"].get(f"relaygr-{service}", {"spans": {}, "metrics": {}})
        spans, metrics = must_emit(service)
        found += [f"{service}: span {name}" for name in sorted(spans - seen["spans"].keys())]
        for name in sorted(metrics):
            metric = seen["metrics"].get(name)
            if metric is None:
                found.append(f"{service}: metric {name}")
            elif not metric["is_nonzero"] and name not in names.MAY_BE_ZERO:
                found.append(f"{service}: metric {name} is zero")
    return found


def undeclared(signals: dict[str, Any]) -> list[str]:
    """What was seen of our services and is not theirs to emit."""
    found = []
    for service in SERVICES:
        seen = signals["services"].get(f"relaygr-{service}", {"spans": {}, "metrics": {}})
        found += [f"{service}: span {name}" for name in sorted(seen["spans"].keys() - may_emit(service))]
        found += [f"{service}: metric {name}" for name in sorted(seen["metrics"].keys() - must_emit(service)[1])]
    return found


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
