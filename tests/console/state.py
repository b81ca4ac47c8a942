"""Made-up metrics of two rankers and an expander, as the services send theirs."""

from __future__ import annotations

from relaygr.telemetry import Telemetry, names
from tests.console.traffic import Processes

MIB = 1024 * 1024
RACE = "race_report_unexpected"


def report(endpoint: str, *, races: int = 0, rankers: tuple[str, ...] = ("ranker-1", "ranker-2")) -> None:
    """Send one collection of each process's metrics."""
    with Processes(endpoint) as processes:
        for number, name in enumerate(rankers):
            _ranker(processes.of("ranker", name), 61 + 90 * number, races if number == 0 else 0)
        _expander(processes.of("expander", "expander-1"))
        lag = processes.of("router", "router-1").histogram(names.METRIC_LOOP_LAG)
        for number in range(100):
            lag.record(number * 2e-5)


def _ranker(telemetry: Telemetry, used_pages: int, races: int) -> None:
    state, event = names.ATTR_RESIDENCY_STATE, names.ATTR_RESIDENCY_EVENT
    pages = {"total": 512, "used": used_pages, "reserved": 12}
    telemetry.gauge(names.METRIC_RESIDENCY_PAGES, lambda: [(count, {state: name}) for name, count in pages.items()])
    telemetry.gauge(names.METRIC_RESIDENCY_ENTRIES, lambda: 9)
    telemetry.gauge(names.METRIC_RESIDENCY_OPEN_TICKETS, lambda: 3)
    telemetry.gauge(names.METRIC_RESIDENCY_EVENTS, lambda: [(races, {event: RACE}), (17, {event: "evicted_space"})])
    telemetry.gauge(names.METRIC_SCHEDULE_BACKLOG, lambda: 0.0042)


def _expander(telemetry: Telemetry) -> None:
    sizes = {"published": 410, "staging": 18, "quarantined": 0, "doomed": 6, "free": 590}
    state, event = names.ATTR_RESIDENCY_STATE, names.ATTR_RESIDENCY_EVENT
    telemetry.gauge(names.METRIC_DRAM_BYTES, lambda: [(size * MIB, {state: name}) for name, size in sizes.items()])
    telemetry.gauge(names.METRIC_DRAM_EVENTS, lambda: [(0, {event: "corrupt"})])
    telemetry.gauge(names.METRIC_DRAM_ENTRIES, lambda: 23)
    telemetry.gauge(names.METRIC_DRAM_PINS, lambda: 1)
    telemetry.gauge(names.METRIC_DRAM_OWNERS, lambda: 2)
