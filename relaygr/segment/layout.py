"""Where things lie in a segment file.

    [0, 4096)              header: magic, version, block size, block count, boot id
    [4096, data)           uint64 per block: the generation that owns it, 0 for none
    [data, data + blocks)  the blocks

Everything starts on a 4,096-byte boundary. The generation table is written by the owner
alone. Its order against the bytes matters to no one's safety on weakly ordered machines:
a reader trusts bytes only after a digest and a reply that says its pin held to the end.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

VERSION = 2
"""1: digests whose header was not padded."""
PAGE_BYTES = 4096
BOOT_ID_CHARS = 32
GENERATION_BYTES = 8

_MAGIC = b"RELAYSEG"
_HEADER = struct.Struct("<8sIIQ32s")


class SegmentRejected(ValueError):
    """A file that is not the segment it was said to be; nothing was mapped."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Block size and count, and what follows from them."""

    block_bytes: int
    block_count: int

    def __post_init__(self) -> None:
        if self.block_bytes <= 0 or self.block_bytes % PAGE_BYTES or self.block_bytes >= 2**32:
            raise SegmentRejected(f"block of {self.block_bytes} bytes, must be a multiple of {PAGE_BYTES}")
        if not 0 < self.block_count < 2**32:
            raise SegmentRejected(f"{self.block_count} blocks")

    @property
    def data_offset(self) -> int:
        """Where block 0 begins, bytes."""
        table = self.block_count * GENERATION_BYTES
        return PAGE_BYTES + -(-table // PAGE_BYTES) * PAGE_BYTES

    @property
    def total_bytes(self) -> int:
        """Bytes of the file."""
        return self.data_offset + self.block_count * self.block_bytes

    @classmethod
    def within(cls, budget_bytes: int, block_bytes: int) -> Geometry:
        """The largest segment whose whole file stays within a budget."""
        count = max(0, (budget_bytes - PAGE_BYTES)) // (block_bytes + GENERATION_BYTES)
        while count > 0 and cls(block_bytes, count).total_bytes > budget_bytes:
            count -= 1
        if count <= 0:
            raise SegmentRejected(f"{budget_bytes} bytes hold no block of {block_bytes}")
        return cls(block_bytes, count)


def pack_header(geometry: Geometry, boot_id: str) -> bytes:
    """The header's bytes."""
    if len(boot_id) != BOOT_ID_CHARS:
        raise SegmentRejected(f"boot id of {len(boot_id)} characters, must be {BOOT_ID_CHARS}")
    return _HEADER.pack(_MAGIC, VERSION, geometry.block_bytes, geometry.block_count, boot_id.encode("ascii"))


def unpack_header(raw: bytes) -> tuple[Geometry, str]:
    """Geometry and boot id of a header.

    Raises:
        SegmentRejected: says what is wrong.
    """
    if len(raw) < _HEADER.size:
        raise SegmentRejected(f"header of {len(raw)} bytes, must be {_HEADER.size}")
    magic, version, block_bytes, block_count, boot_id = _HEADER.unpack(raw[: _HEADER.size])
    if magic != _MAGIC:
        raise SegmentRejected("not a segment: wrong magic")
    if version != VERSION:
        raise SegmentRejected(f"segment version {version}, this build reads {VERSION}")
    return Geometry(block_bytes, block_count), boot_id.decode("ascii", errors="replace")
