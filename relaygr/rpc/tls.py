"""gRPC's credentials from TLS material that may change while a process runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc

from relaygr.security.identity import Role
from relaygr.security.material import KeptMaterial, Material

CONNECTION_AGE_MAX_MS = 600_000
"""A server asks for a new connection after so long, so that a certificate that was replaced is out of use by then."""
LEAVING_S = 30.0
"""Until a channel whose certificate was replaced is closed: longer than calls take."""


def server_credentials(kept: KeptMaterial) -> grpc.ServerCredentials:
    """Of a server: each new connection is made with what is current then, and its caller must show a certificate."""
    first = kept.current()
    given = first.version

    def newer() -> Any:
        """Asked by gRPC's own thread before each handshake; None: as before."""
        nonlocal given
        material = kept.current()
        if material.version == given:
            return None
        given = material.version
        return _configuration(material)

    return grpc.dynamic_ssl_server_credentials(_configuration(first), newer, require_client_authentication=True)


def secure_channel(kept: KeptMaterial, role: Role, address: str, options: list[tuple[str, Any]]) -> RenewedChannel:
    """A channel to a server of a role, whoever answers at the address; belongs to one event loop."""
    name = kept.server_name(role)
    # The name is not the address: it says what the server is, and TLS checks it as a host's.
    named = [*options, ("grpc.ssl_target_name_override", name)]

    def opened(material: Material) -> grpc.aio.Channel:
        credentials = grpc.ssl_channel_credentials(material.authority_pem, material.key_pem, material.certificate_pem)
        return grpc.aio.secure_channel(address, credentials, options=named)

    return RenewedChannel(kept, opened)


class RenewedChannel:
    """A channel that is opened anew when the material has changed; calls on their way end on the old one.

    gRPC reads a channel's certificate once, so without this a process would go on with one that has ended.

    Args:
        kept: the material.
        opened: makes a channel with it.
    """

    def __init__(self, kept: KeptMaterial, opened: Callable[[Material], grpc.aio.Channel]) -> None:
        self._kept = kept
        self._opened = opened
        material = kept.current()
        self._channel, self._version = opened(material), material.version
        self._is_closed = False
        self._leaving: dict[asyncio.Task[None], grpc.aio.Channel] = {}

    def current(self) -> grpc.aio.Channel:
        """The channel for a call that begins now."""
        material = self._kept.current()
        if material.version != self._version and not self._is_closed:
            left, self._channel, self._version = self._channel, self._opened(material), material.version
            leaving = asyncio.get_running_loop().create_task(_leave(left), name="channel: leave")
            self._leaving[leaving] = left
            leaving.add_done_callback(self._leaving.pop)
        return self._channel

    def unary_unary(self, *arguments: Any, **named: Any) -> RenewedMethod:
        """As grpc.aio's."""
        return RenewedMethod(self, lambda channel: channel.unary_unary(*arguments, **named))

    def unary_stream(self, *arguments: Any, **named: Any) -> RenewedMethod:
        """As grpc.aio's."""
        return RenewedMethod(self, lambda channel: channel.unary_stream(*arguments, **named))

    def stream_unary(self, *arguments: Any, **named: Any) -> RenewedMethod:
        """As grpc.aio's."""
        return RenewedMethod(self, lambda channel: channel.stream_unary(*arguments, **named))

    def stream_stream(self, *arguments: Any, **named: Any) -> RenewedMethod:
        """As grpc.aio's."""
        return RenewedMethod(self, lambda channel: channel.stream_stream(*arguments, **named))

    async def close(self, grace_s: float | None = None) -> None:
        """Close; calls in progress fail, those of the newest channel after `grace_s`."""
        self._is_closed = True
        leaving, channels = list(self._leaving), list(self._leaving.values())
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        await asyncio.gather(*(channel.close() for channel in channels))
        await self._channel.close(grace_s)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.current(), name)


async def _leave(channel: grpc.aio.Channel) -> None:
    await asyncio.sleep(LEAVING_S)
    await channel.close()


class RenewedMethod:
    """One method of a channel, of the current one at each call."""

    __slots__ = ("_channel", "_make", "_method", "_of")

    def __init__(self, channel: RenewedChannel, make: Callable[[grpc.aio.Channel], Any]) -> None:
        self._channel = channel
        self._make = make
        self._of: grpc.aio.Channel | None = None
        self._method: Any = None

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Begin a call."""
        current = self._channel.current()
        if current is not self._of:
            self._of, self._method = current, self._make(current)
        return self._method(*arguments, **named)


def _configuration(material: Material) -> Any:
    pair = (material.key_pem, material.certificate_pem)
    return grpc.ssl_server_certificate_configuration([pair], material.authority_pem)
