"""Ways to damage a published entry in the segment, each one that memory or a bug could bring about."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray

from relaygr.segment.layout import PAGE_BYTES, unpack_header

Bytes = NDArray[np.uint8]


class RawSegment:
    """A segment file mapped by somebody who keeps to no rule."""

    def __init__(self, path: Path):
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self.geometry, self.boot_id = unpack_header(os.pread(fd, PAGE_BYTES, 0))
            self._map = mmap.mmap(fd, self.geometry.total_bytes)
        finally:
            os.close(fd)
        geometry = self.geometry
        self.stamps: NDArray[np.uint64] = np.frombuffer(self._map, np.uint64, geometry.block_count, PAGE_BYTES)
        self._blocks: Bytes = np.frombuffer(self._map, np.uint8, offset=geometry.data_offset).reshape(
            geometry.block_count, geometry.block_bytes
        )

    def block(self, index: int) -> Bytes:
        """The bytes of one block."""
        return self._blocks[index]


@dataclass(frozen=True, slots=True)
class Target:
    """An entry whose pin the injector holds."""

    generation: int
    blocks: tuple[int, ...]
    length_bytes: int

    def is_held(self, segment: RawSegment) -> bool:
        """True while the blocks are this entry's."""
        return all(segment.stamps[block] == self.generation for block in self.blocks)

    def read(self, segment: RawSegment) -> Bytes:
        """A copy of the entry's bytes, without what follows them in its last block."""
        return np.concatenate([segment.block(block) for block in self.blocks])[: self.length_bytes]

    def write(self, segment: RawSegment, first: int, filled: Bytes) -> None:
        """Put bytes at an offset of the entry; what would lie beyond its blocks is left out."""
        size = segment.geometry.block_bytes
        for index, block in enumerate(self.blocks):
            begin, end = max(first, index * size), min(first + len(filled), (index + 1) * size)
            if begin < end:
                segment.block(block)[begin - index * size : end - index * size] = filled[begin - first : end - first]


def flip(rng: Random, segment: RawSegment, target: Target) -> None:
    """One bit of the entry."""
    _flip(rng.randrange(target.length_bytes), rng, segment, target)


def padding(rng: Random, segment: RawSegment, target: Target) -> None:
    """One bit behind the entry, in its last block: harms nobody."""
    size = segment.geometry.block_bytes
    _flip(rng.randrange(target.length_bytes, len(target.blocks) * size), rng, segment, target)


def truncate(rng: Random, segment: RawSegment, target: Target) -> None:
    """The tail as if it had never been written."""
    first = rng.randrange(target.length_bytes)
    target.write(segment, first, np.zeros(target.length_bytes - first, dtype=np.uint8))


def reorder(rng: Random, segment: RawSegment, target: Target) -> None:
    """Two whole blocks of the entry in each other's place."""
    whole = target.blocks[: target.length_bytes // segment.geometry.block_bytes]
    swap_blocks(segment, *rng.sample(whole, 2))


def stamp(rng: Random, segment: RawSegment, target: Target) -> None:
    """One block that is said to be another entry's."""
    segment.stamps[rng.choice(target.blocks)] = target.generation + rng.randint(1, 1000)


def swap_blocks(segment: RawSegment, left: int, right: int) -> None:
    """Two blocks in each other's place."""
    kept = segment.block(left).copy()
    segment.block(left)[:] = segment.block(right)
    segment.block(right)[:] = kept


def _flip(at: int, rng: Random, segment: RawSegment, target: Target) -> None:
    index, offset = divmod(at, segment.geometry.block_bytes)
    segment.block(target.blocks[index])[offset] ^= 1 << rng.randrange(8)


Damage = Callable[[Random, RawSegment, Target], None]
ALONE: dict[str, Damage] = {"flip": flip, "padding": padding, "truncate": truncate, "reorder": reorder, "stamp": stamp}
"""Kinds that need nothing but the entry. Beside them, "swap" exchanges blocks of two entries and "stale"
writes back an older version."""


def is_changed(segment: RawSegment, target: Target, before: Bytes) -> bool:
    """True when the entry's owner would read other bytes than before, or another stamp."""
    return not target.is_held(segment) or not np.array_equal(target.read(segment), before)


def blocks_in_use(segment: RawSegment, target: Target) -> Sequence[int]:
    """Those that are the entry's to the last byte."""
    return target.blocks[: target.length_bytes // segment.geometry.block_bytes]
