"""Where things lie in a segment file.

    [0, 4096)              header: magic, version, block size, block count, boot id
    [4096, presence)       uint64 per block: the generation that owns it, 0 for none
    [presence, data)       uint8 per slot: visible entries whose keys fall there, see presence.py
    [data, data + blocks)  the blocks

Everything starts on a 4,096-byte boundary. Both tables are written by the owner
alone. Generations are written before what they grant is told, and cleared before what they granted is
given to another. A reader trusts bytes only when their digest is right and, after the copy, their generations are
still there. It looks at them in the thread that the copying threads handed over to, and a hand-over orders memory on
weakly ordered machines, too.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

VERSION = 4
"""1: digests whose header was not padded. 2: no presence filter. 3: digests without parts."""
PAGE_BYTES = 4096
BOOT_ID_CHARS = 32
GENERATION_BYTES = 8
NO_GENERATION = 0
SLOTS_PER_BLOCK = 8
SLOTS_MAX = 1024 * 1024

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
    def presence_offset(self) -> int:
        """Where the presence filter begins, bytes."""
        table = self.block_count * GENERATION_BYTES
        return PAGE_BYTES + -(-table // PAGE_BYTES) * PAGE_BYTES

    @property
    def presence_slots(self) -> int:
        """Counters of the filter, which are bytes: a power of two from a page to a MiB.

        An entry has a block at least, so there are `SLOTS_PER_BLOCK` for each entry or more, up to the MiB.
        With n entries an absent key is asked for in vain with probability 1 - (1 - 1/slots)^n: 12 % where
        every entry is a single block, 0.4 % where entries are of 32.
        """
        wanted = min(self.block_count * SLOTS_PER_BLOCK, SLOTS_MAX)
        return max(PAGE_BYTES, 1 << (wanted - 1).bit_length())

    @property
    def data_offset(self) -> int:
        """Where block 0 begins, bytes."""
        return self.presence_offset + self.presence_slots

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
