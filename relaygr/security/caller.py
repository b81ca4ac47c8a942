"""Who is at the other end of a connection, from what TLS proved of it.

The certificate was checked against the authority when the connection was made; what is read here is what it says. Both
kinds of connection describe it in gRPC's words (`auth_context`), so that there is one way to read it.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from relaygr.security.identity import Identity, identity_of

PEM_KEY = "x509_pem_cert"
URI_KEY = "peer_uri"
CERTIFICATES_MAX = 4096
"""Whose reading is remembered: more than one deployment has parties."""

_VERSION, _UTC_TIME, _GENERALIZED_TIME = 0xA0, 0x17, 0x18
"""Tags of ASN.1."""

AuthContext = Mapping[str, Iterable[bytes]]


@dataclass(frozen=True, slots=True)
class Caller:
    """What a certificate says of its holder."""

    identity: Identity
    expires_unix_s: int
    """A connection made before does not outlive it."""


def caller_of(auth_context: Mapping[str, Any]) -> Caller | None:
    """The caller of a connection; None when its certificate names nobody of ours."""
    pems, uris = tuple(auth_context.get(PEM_KEY) or ()), tuple(auth_context.get(URI_KEY) or ())
    return _read(pems[0], uris) if len(pems) == 1 else None


def auth_context_of(connection: ssl.SSLObject) -> dict[str, list[bytes]]:
    """What gRPC would tell of this connection, as far as `caller_of` asks."""
    certificate, said = connection.getpeercert(binary_form=True), connection.getpeercert()
    if not certificate or not said:
        return {}
    names: Any = said.get("subjectAltName", ())
    uris = [str(value).encode() for kind, value in names if kind == "URI"]
    return {PEM_KEY: [ssl.DER_cert_to_PEM_cert(certificate).encode("ascii")], URI_KEY: uris}


def expires_unix_s_of(certificate: bytes) -> int:
    """End of a certificate's validity, Unix seconds.

    Neither gRPC nor, for a certificate without a connection, the standard library tells it. The certificate is one that
    a TLS library has taken.

    Args:
        certificate: DER.

    Raises:
        ValueError: it is no certificate.
    """
    try:
        _, inner = _element(certificate)
        _, inner = _element(inner)
        fields = list(_elements(inner))
        if fields[0][0] == _VERSION:
            del fields[0]
        # Serial number, signature's algorithm, issuer, validity: RFC 5280, section 4.1.
        validity = list(_elements(fields[3][1]))
        return _unix_s(*validity[1])
    except (IndexError, ValueError) as error:
        raise ValueError("not a certificate") from error


@lru_cache(maxsize=CERTIFICATES_MAX)
def _read(pem: bytes, uris: tuple[bytes, ...]) -> Caller | None:
    identity = identity_of(uri.decode("utf-8", "replace") for uri in uris)
    if identity is None:
        return None
    try:
        text = pem.rstrip(b"\0").decode("ascii").strip()
        return Caller(identity, expires_unix_s_of(ssl.PEM_cert_to_DER_cert(text)))
    except ValueError:
        return None


def _elements(content: bytes) -> Iterable[tuple[int, bytes]]:
    """Tag and content of each element, one after the other."""
    while content:
        tag, inner = _element(content)
        yield tag, inner
        content = content[_whole(content) :]


def _element(content: bytes) -> tuple[int, bytes]:
    begin, length = _length(content)
    return content[0], content[begin : begin + length]


def _whole(content: bytes) -> int:
    begin, length = _length(content)
    return begin + length


def _length(content: bytes) -> tuple[int, int]:
    """Where an element's content begins, and how long it is."""
    first = content[1]
    if first < 0x80:
        begin, length = 2, first
    else:
        begin = 2 + (first & 0x7F)
        length = int.from_bytes(content[2:begin], "big")
    if begin + length > len(content):
        raise ValueError("cut off")
    return begin, length


def _unix_s(tag: int, content: bytes) -> int:
    text = content.decode("ascii")
    if tag == _UTC_TIME:
        # Two digits: 50 to 99 are of the last century.
        text = ("19" if text >= "50" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("not a time")
    return int(datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp())
