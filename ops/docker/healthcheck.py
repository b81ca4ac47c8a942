"""Asks a server whether it serves, for a container's health check.

    python -IS healthcheck.py HOST:PORT                     gRPC's standard health service
    python -IS healthcheck.py HOST:PORT CERTIFICATE KEY CA  the same over TLS, by paths of PEM files
    python -IS healthcheck.py http://HOST:PORT/             a page that answers 200

Checks run every few seconds in every container, beside the work that they are to leave alone. Importing grpc for each
takes 75 ms of processor (Zen 5), an eighth of a core with eight containers; so the one call is written out here, in
HTTP/2's frames on a socket, which takes 14 ms.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

_TIMEOUT_S = 2.0
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS, _GOAWAY = 0, 1, 4, 7
_END_STREAM, _END_HEADERS = 1, 4
_STREAM = 1
_EMPTY_REQUEST = bytes(5)
"""Not compressed, of length zero: the health of the server as a whole."""
_SERVING = b"\x00\x00\x00\x00\x02\x08\x01"
"""Not compressed, two bytes: field 1, status, is SERVING."""
_FRAME_BYTES_MAX = 1 << 14


def main(target: str, *tls: str) -> int:
    """0 when the server says that it serves within the timeout, else 1; `tls`: certificate, key and authority."""
    try:
        is_serving = _get(target) if target.startswith("http://") else _check(target, *tls)
    except OSError:
        return 1
    return 0 if is_serving else 1


def _connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=_TIMEOUT_S)


def _secured(connection: socket.socket, certificate: str, key: str, authority: str) -> socket.socket:
    """The connection under TLS: the server knows us and we its authority; its role is not asked for, it is our own."""
    # Not at the top: it takes as long as all the rest.
    import ssl

    context = ssl.create_default_context(cafile=authority)
    context.check_hostname = False
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2"])
    return context.wrap_socket(connection)


def _get(url: str) -> bool:
    address, _, path = url.removeprefix("http://").partition("/")
    with _connect(address) as connection:
        connection.sendall(f"GET /{path} HTTP/1.0\r\nHost: {address}\r\n\r\n".encode("ascii"))
        status = connection.makefile("rb").readline(_FRAME_BYTES_MAX).split(b" ")
    return len(status) > 1 and status[1] == b"200"


def _check(address: str, *tls: str) -> bool:
    headers = {
        ":method": "POST",
        ":scheme": "https" if tls else "http",
        ":path": "/grpc.health.v1.Health/Check",
        ":authority": address,
        "te": "trailers",
        "content-type": "application/grpc",
    }
    with _connect(address) as plain, _secured(plain, *tls) if tls else plain as connection:
        connection.sendall(
            _PREFACE
            + _frame(_SETTINGS, 0, 0, b"")
            + _frame(_HEADERS, _END_HEADERS, _STREAM, b"".join(_header(*item) for item in headers.items()))
            + _frame(_DATA, _END_STREAM, _STREAM, _EMPTY_REQUEST)
        )
        message = b""
        for kind, flags, stream, payload in _frames(connection):
            if kind == _GOAWAY:
                return False
            if stream != _STREAM:
                continue
            message += payload if kind == _DATA else b""
            if message == _SERVING:
                return True
            if flags & _END_STREAM or kind not in (_DATA, _HEADERS):
                return False
    return False


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _header(name: str, value: str) -> bytes:
    """One header as a literal that enters no table; name and value are shorter than 127 bytes."""
    return b"\x00" + bytes((len(name),)) + name.encode("ascii") + bytes((len(value),)) + value.encode("ascii")


def _frames(connection: socket.socket) -> Iterator[tuple[int, int, int, bytes]]:
    """Kind, flags, stream and payload of each frame, until the connection ends."""
    reader = connection.makefile("rb")
    while len(head := reader.read(9)) == 9:
        payload = reader.read(min(_FRAME_BYTES_MAX, int.from_bytes(head[:3], "big")))
        yield head[3], head[4], int.from_bytes(head[5:], "big") & 0x7FFFFFFF, payload


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
