"""The expander's side of a segment: makes it, stamps its blocks, counts its entries, removes it."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from relaygr.segment.files import create_private, lock_byte, open_private, segment_path
from relaygr.segment.huge import allocate_huge
from relaygr.segment.layout import (
    GENERATION_BYTES,
    NO_GENERATION,
    PAGE_BYTES,
    Geometry,
    SegmentRejected,
    pack_header,
    unpack_header,
)
from relaygr.segment.locks import LockTable
from relaygr.segment.presence import PresenceFilter


class OwnedSegment:
    """A segment file, its lock file, the table of generations and the presence filter.

    The file is allocated in full at once: memory that is not there is found at start and
    not by a bus error at the first store. Byte 0 stays locked while this process lives, so
    that a later start can tell a left-over file from a neighbour's. `huge_pages` says what it lies on.
    """

    def __init__(self, directory: Path, deployment: str, boot_id: str, geometry: Geometry):
        """Create and allocate.

        Raises:
            OSError: the directory has no room (ENOSPC) or may not be written.
            SegmentRejected: bad deployment name or boot id.
        """
        header = pack_header(geometry, boot_id)
        self.path = segment_path(directory, deployment, boot_id)
        self.boot_id = boot_id
        self.geometry = geometry
        self._fd = create_private(self.path)
        try:
            assert lock_byte(self._fd, 0)
            self.huge_pages = allocate_huge(self._fd, self.path, geometry.total_bytes)
            os.posix_fallocate(self._fd, 0, geometry.total_bytes)
            self._map = mmap.mmap(self._fd, geometry.data_offset)
            self.locks = LockTable(self.path.with_name(self.path.name + ".lock"))
        except BaseException:
            self.path.unlink(missing_ok=True)
            os.close(self._fd)
            raise
        self._generations: NDArray[np.uint64] = np.frombuffer(
            self._map, dtype=np.uint64, count=geometry.block_count, offset=PAGE_BYTES
        )
        self.presence = PresenceFilter(
            np.frombuffer(self._map, dtype=np.uint8, count=geometry.presence_slots, offset=geometry.presence_offset)
        )
        self._map[: len(header)] = header

    def stamp(self, blocks: Sequence[int], generation: int) -> None:
        """Write who owns these blocks; before they are granted."""
        self._generations[np.asarray(blocks, dtype=np.int64)] = generation

    def clear(self, blocks: Sequence[int]) -> None:
        """Write that nobody may use these blocks."""
        self.stamp(blocks, NO_GENERATION)

    def close(self) -> None:
        """Unlink both files; whoever has mapped the segment keeps the bytes, harmlessly."""
        if self._fd < 0:
            return
        # Copies out of it may still be under way: what this process promised ends here.
        self._generations[:] = NO_GENERATION
        self.path.unlink(missing_ok=True)
        self.locks.close()
        del self._generations
        self.presence.detach()
        self._map.close()
        os.close(self._fd)
        self._fd = -1


def remove_stale(directory: Path, deployment: str) -> int:
    """Remove what expanders of this deployment left behind when they were killed.

    Returns:
        Segments removed. A segment whose owner lives is left alone.
    """
    removed = 0
    prefix = segment_path(directory, deployment, "").name
    for path in sorted(directory.glob(prefix + "*")):
        if path.suffix == ".lock":
            continue
        try:
            fd = open_private(path)
        except SegmentRejected:
            continue  # another user's, or gone meanwhile
        try:
            if lock_byte(fd, 0):
                _clear_generations(fd)
                path.unlink(missing_ok=True)
                path.with_name(path.name + ".lock").unlink(missing_ok=True)
                removed += 1
        finally:
            os.close(fd)
    return removed


def _clear_generations(fd: int) -> None:
    """Take back what a dead owner granted: rankers may still have its segment mapped, and copies under way."""
    try:
        geometry, _ = unpack_header(os.pread(fd, PAGE_BYTES, 0))
    except SegmentRejected:
        return  # killed while it was made: nothing was granted
    table_bytes = geometry.block_count * GENERATION_BYTES
    if os.fstat(fd).st_size >= PAGE_BYTES + table_bytes:
        os.pwrite(fd, bytes(table_bytes), PAGE_BYTES)
