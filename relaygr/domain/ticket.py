"""Tickets: claims under a keyed MAC, so that a forged one is told apart from a stale one.

The claims travel as serialised bytes and the MAC is over those bytes, so no canonical
form is needed.

Source: design, section 2 (ticket).
"""

from __future__ import annotations

import hmac
from functools import lru_cache

MAC_BYTES = 32
KEY_BYTES_MIN = 16
KEYS_MAX = 4
"""Remembered; a process has one."""


def sign(claims: bytes, key: bytes) -> bytes:
    """MAC of serialised claims under the deployment's ticket key."""
    mac = _begun(key).copy()
    mac.update(claims)
    return mac.digest()


@lru_cache(maxsize=KEYS_MAX)
def _begun(key: bytes) -> hmac.HMAC:
    """The MAC under a key before any claims; setting it up takes longer than a ticket's claims do."""
    assert len(key) >= KEY_BYTES_MIN
    return hmac.new(key, b"relaygr.v1.ticket\x00", "sha256")


def is_genuine(claims: bytes, mac: bytes, key: bytes) -> bool:
    """True when the deployment's key made this MAC; constant time."""
    return hmac.compare_digest(sign(claims, key), mac)
