"""The matrix: which service must emit which spans and metrics, and what of it a console has seen.

It is emitted_by in ops/telemetry.yaml; calls are those of the protos.
"""

from __future__ import annotations

from typing import Any

from relaygr.telemetry import names
from relaygr.v1 import expander_pb2, ranker_pb2, router_pb2, trigger_pb2

SERVED_BY = {"trigger": trigger_pb2, "router": router_pb2, "ranker": ranker_pb2, "expander": expander_pb2}
CALLS = {"client": ("trigger", "router"), "trigger": ("router",), "router": ("ranker",), "ranker": ("expander",)}
UNSAMPLED = {"relaygr.v1.ExpanderService/Attach"}
"""Heartbeats, which would drown everything else."""


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
