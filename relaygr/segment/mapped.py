"""A ranker's side of a segment: maps it, reads and writes granted blocks."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from relaygr.segment.files import open_private
from relaygr.segment.huge import advise
from relaygr.segment.layout import PAGE_BYTES, Geometry, SegmentRejected, unpack_header
from relaygr.segment.presence import PresenceFilter

_TOUCH_BYTES = 4 * 1024 * 1024


class MappedSegment:
    """A mapped segment. `open` checks that the file is the one it was said to be."""

    def __init__(self, mapping: mmap.mmap, geometry: Geometry, boot_id: str):
        self._map = mapping
        self.geometry = geometry
        self.boot_id = boot_id
        self._generations: NDArray[np.uint64] = np.frombuffer(
            mapping, dtype=np.uint64, count=geometry.block_count, offset=PAGE_BYTES
        )
        self._generations.flags.writeable = False  # the owner's alone
        counters: NDArray[np.uint8] = np.frombuffer(
            mapping, dtype=np.uint8, count=geometry.presence_slots, offset=geometry.presence_offset
        )
        counters.flags.writeable = False
        self.presence = PresenceFilter(counters)
        self._data: NDArray[np.uint8] = np.frombuffer(mapping, dtype=np.uint8, offset=geometry.data_offset)

    @classmethod
    def open(cls, path: Path, *, boot_id: str, segment_bytes: int, block_bytes: int) -> MappedSegment:
        """Map a segment; at once, whatever its size. See `touch`.

        Raises:
            SegmentRejected: missing, foreign, truncated, of another boot or another geometry.
        """
        fd = open_private(path)
        try:
            found_bytes = os.fstat(fd).st_size
            if found_bytes != segment_bytes:
                raise SegmentRejected(f"{path.name}: {found_bytes} bytes, was said to have {segment_bytes}")
            geometry, found_boot_id = unpack_header(os.pread(fd, PAGE_BYTES, 0))
            if found_boot_id != boot_id:
                raise SegmentRejected(f"{path.name}: of another boot")
            if geometry.total_bytes != found_bytes or geometry.block_bytes != block_bytes:
                raise SegmentRejected(f"{path.name}: header does not describe this file")
            mapping = mmap.mmap(fd, segment_bytes)
            advise(mapping)
        finally:
            os.close(fd)
        return cls(mapping, geometry, boot_id)

    def owns(self, blocks: Sequence[int], generation: int) -> bool:
        """True when every block is in range and stamped with this generation."""
        wanted = np.asarray(blocks, dtype=np.int64)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < self.geometry.block_count:
            return False
        return bool((self._generations[wanted] == generation).all())

    @property
    def generations(self) -> NDArray[np.uint64]:
        """Who owns each block, as the owner stamps it at this moment; not to be written."""
        return self._generations

    @property
    def blocks(self) -> NDArray[np.uint8]:
        """The bytes of all blocks, in order."""
        return self._data

    def block(self, index: int) -> NDArray[np.uint8]:
        """The bytes of one block."""
        first = index * self.geometry.block_bytes
        return self._data[first : first + self.geometry.block_bytes]

    def close(self) -> None:
        """Unmap; when a view is still out, the mapping goes with the last view."""
        self._generations = np.zeros(0, dtype=np.uint64)
        self.presence.detach()
        self._data = np.zeros(0, dtype=np.uint8)
        with contextlib.suppress(BufferError):
            self._map.close()

    def touch(self, should_stop: Callable[[], bool]) -> None:
        """Fill the page tables in steps, so that the first copies need not; takes a while, in a thread."""
        data = self._data
        for first in range(0, len(data), _TOUCH_BYTES):
            if should_stop():
                return
            data[first : first + _TOUCH_BYTES : PAGE_BYTES].max(initial=0)
