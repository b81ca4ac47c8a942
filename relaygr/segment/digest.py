"""The digest that tells a whole, right psi from anything else.

xxh3-128 over identity, token count, length, then the bytes in page order. It finds
accidents (a torn copy, swapped pages, another user's blocks), not forgers: whoever may map
the segment may already read and write it. What precedes the bytes is padded to a whole
stripe of the hash, so that its stripes are the cache lines of pages and blocks.

The kernels' hash is the same function as the library's, which serves where they are not built.

Source: design, section 3 (expander) and invariant I5.
"""

from __future__ import annotations

import struct
from typing import Any, Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray

from relaygr.native import load
from relaygr.segment.kernels import KernelHash

DIGEST_BYTES = 16
STRIPE_BYTES = 64

_HEADER = struct.Struct("<IQQ")


class Hasher(Protocol):
    """A running xxh3-128."""

    def update(self, data: Any, /) -> None:
        """Take the next bytes, from any contiguous buffer."""

    def digest(self) -> bytes:
        """Of what was taken so far."""


def fastest_hasher() -> Hasher:
    """The kernels' where they are there, else the library's."""
    library = load()
    return xxhash.xxh3_128() if library is None else KernelHash(library)


class ContentDigest:
    """A running digest of one entry.

    Args:
        identity: from `identity_bytes`.
        token_count: prefix tokens of the entry.
        length_bytes: how many bytes will follow.
        hasher: an unused one; the fastest there is when not given.
    """

    __slots__ = ("hasher",)

    def __init__(self, identity: bytes, token_count: int, length_bytes: int, hasher: Hasher | None = None):
        header = _HEADER.pack(len(identity), token_count, length_bytes) + identity
        self.hasher = fastest_hasher() if hasher is None else hasher
        self.hasher.update(header + bytes(-len(header) % STRIPE_BYTES))

    def update(self, piece: NDArray[np.uint8]) -> None:
        """Take the next bytes in page order; contiguous."""
        self.hasher.update(piece.data)

    def digest(self) -> bytes:
        """Sixteen bytes."""
        return self.hasher.digest()
