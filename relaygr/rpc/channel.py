"""Channels to peers: one per address, traced, that notice a silent peer in seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import grpc

from relaygr.errors import Refused
from relaygr.rpc.lane_counts import CALLER, LaneCounts
from relaygr.rpc.traced_channel import TracedChannel
from relaygr.telemetry import Telemetry

Stub = TypeVar("Stub")

MESSAGE_BYTES_MAX = 8 * 1024 * 1024
CHANNELS_MAX = 1024
"""More peers than one deployment has instances; a leak shows as Refused instead of as memory."""


class ChannelPool:
    """One channel per address. Belongs to one event loop.

    `has_lanes`: calls of one channel share an open connection where the server offers that.
    """

    def __init__(
        self,
        telemetry: Telemetry,
        message_bytes_max: int = MESSAGE_BYTES_MAX,
        channels_max: int = CHANNELS_MAX,
        *,
        has_lanes: bool = True,
    ) -> None:
        self._telemetry = telemetry
        self._lane_counts = LaneCounts(CALLER) if has_lanes else None
        if self._lane_counts is not None:
            self._lane_counts.publish(telemetry)
        self._options = channel_options(message_bytes_max)
        self._channels_max = channels_max
        self._channels: dict[str, TracedChannel] = {}
        self._stubs: dict[tuple[str, Any], Any] = {}
        """Of open channels, by address and kind; few kinds each."""

    def get(self, address: str) -> TracedChannel:
        """The channel to host:port, opened on first use.

        Raises:
            Refused: too many peers.
        """
        channel = self._channels.get(address)
        if channel is None:
            if len(self._channels) >= self._channels_max:
                raise Refused(f"channels to {self._channels_max} peers are open already")
            opened = grpc.aio.insecure_channel(address, options=self._options)
            channel = self._channels[address] = TracedChannel(
                opened, self._telemetry, address, lane_counts=self._lane_counts
            )
        return channel

    def stub(self, kind: Callable[[Any], Stub], address: str) -> Stub:
        """A generated stub for host:port; kept, since making one prepares all its methods.

        Raises:
            Refused: too many peers.
        """
        stub = self._stubs.get((address, kind))
        if stub is None:
            stub = self._stubs[address, kind] = kind(self.get(address))
        return stub

    async def close(self, address: str | None = None) -> None:
        """Close one peer's channel, or all; calls in progress end as cancelled."""
        doomed = list(self._channels) if address is None else [address]
        self._stubs = {name: stub for name, stub in self._stubs.items() if name[0] not in doomed}
        for name in doomed:
            channel = self._channels.pop(name, None)
            if channel is not None:
                await channel.close()


def channel_options(message_bytes_max: int = MESSAGE_BYTES_MAX) -> list[tuple[str, int]]:
    """Options of every channel of the project."""
    return [
        ("grpc.max_receive_message_length", message_bytes_max),
        ("grpc.max_send_message_length", message_bytes_max),
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 3_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # Without this a paused peer holds a connection open far beyond the keepalive timeout.
        ("grpc.http2.ping_timeout_ms", 3_000),
        ("grpc.initial_reconnect_backoff_ms", 100),
        # Also how long one attempt to connect may take.
        ("grpc.min_reconnect_backoff_ms", 1_000),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        # Pools of two processes in one (tests, the client library) must not share connections.
        ("grpc.use_local_subchannel_pool", 1),
    ]
