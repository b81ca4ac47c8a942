"""TLS as asyncio's connections and the proof of material use it: both ends show a certificate, TLS 1.3 and no less."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any


def server_context(certificate: Path, key: Path, authority: Path) -> ssl.SSLContext:
    """Of the end that takes connections.

    Raises:
        OSError: a file cannot be read (ssl.SSLError among them: it is not what it should be).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # A session that is resumed would not look at the certificate again.
    context.num_tickets = 0
    return _loaded(context, certificate, key, authority)


def client_context(certificate: Path, key: Path, authority: Path) -> ssl.SSLContext:
    """Of the end that connects; the caller says which name the other's certificate must hold.

    Raises:
        OSError: as for `server_context`.
    """
    return _loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), certificate, key, authority)


class CurrentContext(ssl.SSLContext):
    """Of a listener that outlives its certificate: each new connection gets the context that is current then.

    asyncio makes a connection's TLS by `wrap_bio`, the one thing that is answered here.
    """

    current: Callable[[], ssl.SSLContext]

    @classmethod
    def following(cls, current: Callable[[], ssl.SSLContext]) -> CurrentContext:
        """For a listener."""
        made = cls(ssl.PROTOCOL_TLS_SERVER)
        made.current = current
        return made

    def wrap_bio(self, *arguments: Any, **named: Any) -> ssl.SSLObject:
        """A connection's TLS."""
        return self.current().wrap_bio(*arguments, **named)


def _loaded(context: ssl.SSLContext, certificate: Path, key: Path, authority: Path) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    # The password is never asked for at a terminal: a key that has one cannot be used.
    context.load_cert_chain(certificate, key, password=lambda: "")
    context.load_verify_locations(cafile=authority)
    return context
