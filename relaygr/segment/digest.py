"""The digest that tells a whole, right psi from anything else.

xxh3-128 over identity, token count, length, then the bytes in page order. It finds
accidents (a torn copy, swapped pages, another user's blocks), not forgers: whoever may map
the segment may already read and write it.

Source: design, section 3 (expander) and invariant I5.
"""

from __future__ import annotations

import struct

import numpy as np
import xxhash
from numpy.typing import NDArray

from relaygr.domain.identity import PsiKey

DIGEST_BYTES = 16


def identity_bytes(key: PsiKey, chain_digest: bytes) -> bytes:
    """Every field of the identity with its length before it, so that no two identities share bytes."""
    parts = (
        key.owner.tenant.encode(),
        key.owner.user.encode(),
        key.model_key.encode(),
        key.anchor.to_bytes(8, "little"),
        chain_digest,
    )
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


class ContentDigest:
    """A running digest of one entry."""

    __slots__ = ("_hash",)

    def __init__(self, identity: bytes, token_count: int, length_bytes: int):
        self._hash = xxhash.xxh3_128(struct.pack("<IQQ", len(identity), token_count, length_bytes) + identity)

    def update(self, piece: NDArray[np.uint8]) -> None:
        """Take the next bytes in page order; contiguous."""
        self._hash.update(piece.data)

    def digest(self) -> bytes:
        """Sixteen bytes."""
        return self._hash.digest()
