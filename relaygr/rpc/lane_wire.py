"""Frames on a TCP connection: a length of four bytes, then so many bytes.

Source: protos/relaygr/v1/lane.proto.
"""

from __future__ import annotations

import asyncio
import socket
from typing import cast

LENGTH_BYTES = 4
SILENT_MS = 3_000
"""Bytes that the other host has not acknowledged for so long end the connection."""
TLS_SHUTDOWN_S = 0.5
"""For the other end to say that it has heard all, when a lane under TLS is closed."""
_KEEPALIVE_S = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 3}


class Framed(asyncio.Protocol):
    """One end of a connection. Subclasses take `heard` and `lost`."""

    def __init__(self, frame_bytes_max: int) -> None:
        self._frame_bytes_max = frame_bytes_max
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self.is_congested = False
        """More is unsent than should be: the other end reads too slowly."""

    def heard(self, frame: bytes) -> None:
        """A frame has come."""
        raise NotImplementedError

    def lost(self) -> None:
        """The connection is over."""

    def send(self, frame: bytes) -> None:
        """Say something; dropped when the connection is over."""
        transport = self._transport
        if transport is not None and not transport.is_closing():
            transport.write(len(frame).to_bytes(LENGTH_BYTES, "big") + frame)

    def end(self) -> None:
        """Close once all is sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close now."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio's."""
        self._transport = cast("asyncio.Transport", transport)
        _notice_silence(transport.get_extra_info("socket"))

    def data_received(self, data: bytes) -> None:
        """Asyncio's."""
        buffer = self._buffer
        buffer += data
        begin, available = 0, len(buffer)
        while available - begin >= LENGTH_BYTES:
            length = int.from_bytes(buffer[begin : begin + LENGTH_BYTES], "big")
            if length > self._frame_bytes_max:
                # Not our protocol, or not our limits; there is no way to find the next frame.
                buffer.clear()
                self.abort()
                return
            end = begin + LENGTH_BYTES + length
            if end > available:
                break
            self.heard(bytes(buffer[begin + LENGTH_BYTES : end]))
            begin = end
            if self._transport is None or self._transport.is_closing():
                # Ended by what was heard: what came with it is not.
                break
        del buffer[:begin]

    def eof_received(self) -> None:
        """asyncio's: who closes does not listen any more, either."""
        self.abort()

    def pause_writing(self) -> None:
        """Asyncio's."""
        self.is_congested = True

    def resume_writing(self) -> None:
        """Asyncio's."""
        self.is_congested = False

    def connection_lost(self, error: Exception | None) -> None:
        """Asyncio's."""
        self.lost()


def _notice_silence(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in {**_KEEPALIVE_S, "TCP_USER_TIMEOUT": SILENT_MS}.items():
        # Linux has them all; elsewhere a lost host is noticed later.
        option = getattr(socket, name, None)
        if option is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
