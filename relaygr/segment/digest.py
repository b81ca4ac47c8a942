"""The digest that tells a whole, right psi from anything else.

xxh3-128 over identity, token count, length, and the xxh3-128 of each part of the bytes in
page order. Parts have one size, so that several threads can copy one entry and nothing has
to wait for the part before it. The digest finds accidents (a torn copy, swapped pages,
another user's blocks), not forgers: whoever may map the segment may already read and write it.

The kernels' hash is the same function as the library's, which serves where they are not built.

Source: design, section 3 (expander) and invariant I5.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray

from relaygr.native import load
from relaygr.segment.kernels import KernelHash

DIGEST_BYTES = 16
PART_BYTES = 2 * 1024 * 1024
"""Of each part but the last: one call of the kernels, about an eighth of a millisecond, after which a copy can be
stopped. Half of it costs 5 %."""

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
    """A digest of one entry, taken in order by `update`, or part by part in any order.

    Args:
        identity: from `identity_bytes`.
        token_count: prefix tokens of the entry.
        length_bytes: how many bytes will follow.
        make_hasher: gives an unused one; the fastest there is when not given.
    """

    __slots__ = ("_at", "_header", "_make", "_parts", "length_bytes")

    def __init__(
        self, identity: bytes, token_count: int, length_bytes: int, make_hasher: Callable[[], Hasher] = fastest_hasher
    ):
        self._header = _HEADER.pack(len(identity), token_count, length_bytes) + identity
        self._make = make_hasher
        self._parts: list[Hasher | None] = [None] * -(-length_bytes // PART_BYTES)
        self._at = 0
        self.length_bytes = length_bytes

    @property
    def part_count(self) -> int:
        """Parts that the bytes fall into."""
        return len(self._parts)

    def part(self, index: int) -> Hasher:
        """The running digest of bytes [index * PART_BYTES, ...); each part by one thread."""
        hasher = self._parts[index]
        if hasher is None:
            hasher = self._parts[index] = self._make()
        return hasher

    def update(self, piece: NDArray[np.uint8]) -> None:
        """Take the next bytes in page order; contiguous.

        Raises:
            IndexError: more bytes than were announced.
        """
        first = 0
        while first < len(piece):
            index, taken = divmod(self._at, PART_BYTES)
            some = piece[first : first + PART_BYTES - taken]
            self.part(index).update(some.data)
            first += len(some)
            self._at += len(some)

    def digest(self) -> bytes:
        """Sixteen bytes; parts that were not taken count as empty."""
        whole = xxhash.xxh3_128(self._header)
        for index in range(self.part_count):
            whole.update(self.part(index).digest())
        return whole.digest()
