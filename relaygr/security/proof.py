"""TLS material, tried on itself before it is used: a handshake in memory between two ends that both have it.

It finds what a look at the files does not: a key of another certificate, an authority that did not sign it, a validity
that has ended or not begun, a certificate that may not serve.
"""

from __future__ import annotations

import ssl

from relaygr.security.identity import SERVERS, Identity, identity_of

_TURNS_MAX = 16
"""A handshake takes two or three."""


def proved(server: ssl.SSLContext, client: ssl.SSLContext) -> Identity:
    """Whose material it is.

    Args:
        server: context of the end that takes connections.
        client: context of the end that connects, with the same material.

    Raises:
        ssl.SSLError: it would not be taken by a peer with the same authority.
        ValueError: it is, but stands for nobody of ours, or for a server that nobody could ask for by name.
    """
    said = _shaken(server, client, as_server=False)
    identity = identity_of(_names(said, "URI"))
    if identity is None:
        raise ValueError("it holds no URI relaygr://deployment/role/name, or several")
    if identity.role in SERVERS:
        _shaken(server, client, as_server=True)
        if identity.server_name not in _names(said, "DNS"):
            raise ValueError(f"it does not hold the DNS name {identity.server_name}, which callers expect of it")
    return identity


def _shaken(server: ssl.SSLContext, client: ssl.SSLContext, *, as_server: bool) -> dict[str, object]:
    """What the server's end heard of the client's certificate, checked."""
    client.check_hostname = False
    # A certificate that is only for clients must not be refused as a server's.
    client.verify_mode = ssl.CERT_REQUIRED if as_server else ssl.CERT_NONE
    try:
        up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
        ends = (client.wrap_bio(down, up), server.wrap_bio(up, down, server_side=True))
        waiting = list(ends)
        for _ in range(_TURNS_MAX):
            waiting = [end for end in waiting if not _is_done(end)]
            if not waiting:
                break
        return dict(ends[1].getpeercert() or {})
    finally:
        client.verify_mode = ssl.CERT_REQUIRED
        client.check_hostname = True


def _is_done(end: ssl.SSLObject) -> bool:
    try:
        end.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def _names(said: dict[str, object], kind: str) -> list[str]:
    names: object = said.get("subjectAltName", ())
    assert isinstance(names, tuple)
    return [str(value) for found, value in names if found == kind]
