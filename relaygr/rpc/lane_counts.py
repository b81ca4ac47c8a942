"""How much lanes carry, and which calls they do not.

Plain numbers, since they are counted at each call; read when metrics are collected.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from relaygr.telemetry import Telemetry, names

CALLER = "CALLER"
SERVER = "SERVER"


@dataclass(slots=True)
class LaneCounts:
    """Of one pool of channels, or of one server."""

    side: str
    """CALLER or SERVER."""
    connections: int = 0
    """Open now."""
    calls: int = 0
    """Carried."""
    fallbacks: dict[str, int] = field(default_factory=dict)
    """Of a caller: calls of gRPC, by why no lane took them."""

    def fell_back(self, why: str) -> None:
        """A call went by gRPC alone."""
        self.fallbacks[why] = self.fallbacks.get(why, 0) + 1

    def publish(self, telemetry: Telemetry) -> None:
        """Let them be read at each collection."""
        side = {names.ATTR_LANE_SIDE: self.side}
        telemetry.total(names.METRIC_LANE_CONNECTIONS, lambda: [(self.connections, side)])
        telemetry.total(names.METRIC_LANE_CALLS, lambda: [(self.calls, side)])
        if self.side == CALLER:
            telemetry.total(
                names.METRIC_LANE_FALLBACKS,
                # A copy: the event loop adds reasons while a telemetry thread reads.
                lambda: [(count, {names.ATTR_LANE_FALLBACK: why}) for why, count in tuple(self.fallbacks.items())],
            )
