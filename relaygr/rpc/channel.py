"""Channels to peers: one per address, traced, that notice a silent peer in seconds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import grpc

from relaygr.errors import Refused
from relaygr.rpc.lane_counts import CALLER, LaneCounts
from relaygr.rpc.tls import secure_channel
from relaygr.rpc.traced_channel import TracedChannel
from relaygr.security.identity import Role
from relaygr.security.material import KeptMaterial
from relaygr.telemetry import Telemetry

Stub = TypeVar("Stub")

MESSAGE_BYTES_MAX = 8 * 1024 * 1024
CHANNELS_MAX = 1024
"""More peers than one deployment has instances; a leak shows as Refused instead of as memory."""


class ChannelPool:
    """One channel per address. Belongs to one event loop.

    `has_lanes`: calls of one channel share an open connection where the server offers that. `tls`: what is shown to
    peers, which must prove to be of the role that they are asked for as; `peer_role` where a call does not say one.
    Without `tls`, plain text, and roles mean nothing.
    """

    def __init__(
        self,
        telemetry: Telemetry,
        message_bytes_max: int = MESSAGE_BYTES_MAX,
        channels_max: int = CHANNELS_MAX,
        *,
        has_lanes: bool = True,
        tls: KeptMaterial | None = None,
        peer_role: Role | None = None,
    ) -> None:
        self._telemetry = telemetry
        self._tls, self._peer_role = tls, peer_role
        self._lane_counts = LaneCounts(CALLER) if has_lanes else None
        if self._lane_counts is not None:
            self._lane_counts.publish(telemetry)
        self._options = channel_options(message_bytes_max)
        self._channels_max = channels_max
        self._channels: dict[str, TracedChannel] = {}
        self._stubs: dict[tuple[str, Any], Any] = {}
        """Of open channels, by address and kind; few kinds each."""

    def get(self, address: str, role: Role | None = None) -> TracedChannel:
        """The channel to host:port, opened on first use; the role of that use holds.

        Raises:
            Refused: too many peers.
        """
        channel = self._channels.get(address)
        if channel is None:
            if len(self._channels) >= self._channels_max:
                raise Refused(f"channels to {self._channels_max} peers are open already")
            channel = self._channels[address] = self._opened(address, role or self._peer_role)
        return channel

    def stub(self, kind: Callable[[Any], Stub], address: str, role: Role | None = None) -> Stub:
        """A generated stub for host:port; kept, since making one prepares all its methods.

        Raises:
            Refused: too many peers.
        """
        stub = self._stubs.get((address, kind))
        if stub is None:
            stub = self._stubs[address, kind] = kind(self.get(address, role))
        return stub

    async def close(self, address: str | None = None) -> None:
        """Close one peer's channel, or all; calls in progress end as cancelled."""
        doomed = list(self._channels) if address is None else [address]
        self._stubs = {name: stub for name, stub in self._stubs.items() if name[0] not in doomed}
        for name in doomed:
            channel = self._channels.pop(name, None)
            if channel is not None:
                await channel.close()

    def _opened(self, address: str, role: Role | None) -> TracedChannel:
        if self._tls is None:
            plain = grpc.aio.insecure_channel(address, options=self._options)
            return TracedChannel(plain, self._telemetry, address, lane_counts=self._lane_counts)
        assert role is not None, "whoever speaks TLS says which role it calls"
        channel = secure_channel(self._tls, role, address, self._options)
        secured = partial(self._tls.connecting_context, role)
        return TracedChannel(channel, self._telemetry, address, lane_counts=self._lane_counts, secured=secured)


def channel_options(message_bytes_max: int = MESSAGE_BYTES_MAX) -> list[tuple[str, int]]:
    """Options of every channel of the project."""
    return [
        ("grpc.max_receive_message_length", message_bytes_max),
        ("grpc.max_send_message_length", message_bytes_max),
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 3_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # Lanes carry the calls: without this an idle connection sends two pings, and then one a minute.
        ("grpc.http2.max_pings_without_data", 0),
        # Without this a paused peer holds a connection open far beyond the keepalive timeout.
        ("grpc.http2.ping_timeout_ms", 3_000),
        ("grpc.initial_reconnect_backoff_ms", 100),
        # Also how long one attempt to connect may take.
        ("grpc.min_reconnect_backoff_ms", 1_000),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        # Pools of two processes in one (tests, the client library) must not share connections.
        ("grpc.use_local_subchannel_pool", 1),
    ]
