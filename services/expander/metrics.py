"""Instruments of the expander; names from ops/telemetry.yaml."""

from __future__ import annotations

from collections import Counter

from relaygr.telemetry import Telemetry, names
from services.expander.core.tiering import Tiering

MUST_BE_ZERO = ("corrupt",)
"""Counters of the core that point at a bug or bad memory, whatever the load."""


class ExpanderMetrics:
    """What the expander counts; the core's own counters and sizes are read at each collection."""

    def __init__(self, telemetry: Telemetry, tiering: Tiering, block_bytes: int):
        self._lookups = telemetry.counter(names.METRIC_DRAM_LOOKUPS)
        self._stores = telemetry.counter(names.METRIC_DRAM_STORES)
        self._tiering = tiering
        self._block_bytes = block_bytes
        telemetry.gauge(names.METRIC_DRAM_BYTES, self._bytes)
        telemetry.gauge(names.METRIC_DRAM_EVENTS, self._events)
        telemetry.gauge(names.METRIC_DRAM_ENTRIES, lambda: tiering.occupancy().entries)
        telemetry.gauge(names.METRIC_DRAM_PINS, lambda: tiering.occupancy().pins)
        telemetry.gauge(names.METRIC_DRAM_OWNERS, lambda: tiering.occupancy().owners)

    def looked_up(self, outcome: str) -> None:
        """One lookup was answered."""
        self._lookups.add(1, {names.ATTR_DRAM_OUTCOME: outcome})

    def stored(self, outcome: str) -> None:
        """One store was refused or ended."""
        self._stores.add(1, {names.ATTR_DRAM_OUTCOME: outcome})

    def _bytes(self) -> list[tuple[float, dict[str, str]]]:
        seen = self._tiering.occupancy()
        states = {
            "published": seen.published_blocks,
            "staging": seen.staging_blocks,
            "quarantined": seen.quarantined_blocks,
            "doomed": seen.doomed_blocks,
            "free": seen.free_blocks,
        }
        return [(blocks * self._block_bytes, {names.ATTR_RESIDENCY_STATE: state}) for state, blocks in states.items()]

    def _events(self) -> list[tuple[float, dict[str, str]]]:
        counted = dict.fromkeys(MUST_BE_ZERO, 0) | dict(self._tiering.counters)
        return [(value, {names.ATTR_RESIDENCY_EVENT: name}) for name, value in counted.items()]


class TransferMetrics:
    """What is counted of the streams of rankers on other hosts; lookups and stores count as everybody's."""

    def __init__(self, telemetry: Telemetry):
        self._telemetry = telemetry
        self._lookups = telemetry.counter(names.METRIC_DRAM_LOOKUPS)
        self._stores = telemetry.counter(names.METRIC_DRAM_STORES)
        self.moved_bytes: Counter[str] = Counter()
        """Of entries, by kind of stream, since boot."""

    def observe(self, open_streams: Counter[str]) -> None:
        """Publish the streams that are open, by kind, and the bytes moved; read at each collection."""
        self._telemetry.gauge(names.METRIC_DRAM_STREAMS, lambda: _by_kind(open_streams, ("FETCH", "STORE", "PROBE")))
        self._telemetry.total(names.METRIC_DRAM_MOVED, lambda: _by_kind(self.moved_bytes, ("FETCH", "STORE")))

    def looked_up(self, outcome: str) -> None:
        """One lookup was answered."""
        self._lookups.add(1, {names.ATTR_DRAM_OUTCOME: outcome})

    def stored(self, outcome: str) -> None:
        """One store was refused or ended."""
        self._stores.add(1, {names.ATTR_DRAM_OUTCOME: outcome})

    def moved(self, kind: str, count: int) -> None:
        """So many bytes of an entry were copied."""
        self.moved_bytes[kind] += count


def _by_kind(counts: Counter[str], kinds: tuple[str, ...]) -> list[tuple[float, dict[str, str]]]:
    return [(counts[kind], {names.ATTR_DRAM_TRANSFER: kind}) for kind in kinds]
