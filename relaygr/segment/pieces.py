"""A run of bytes that lies in several places, read or written from one end to the other.

An entry travels in chunks that fit neither pages nor blocks; each end keeps its place in
its own views. A chunk is copied in one go: shorter than what a thread would cost.

Source: design, section 3 (expander).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from relaygr.segment.digest import ContentDigest

Bytes = NDArray[np.uint8]

CHUNK_BYTES = 256 * 1024
"""Most bytes of an entry in one message: far below gRPC's limit, and some tens of microseconds to copy."""


class Pieces:
    """A place in a run of bytes.

    Args:
        views: contiguous, in order.
        length_bytes: where the run ends; the last view may be longer.
    """

    def __init__(self, views: Sequence[Bytes], length_bytes: int):
        assert sum(view.nbytes for view in views) >= length_bytes
        self._views = views
        self._view, self._at = 0, 0
        self._length_bytes = length_bytes
        self.done_bytes = 0
        """Read or written so far."""

    @property
    def left_bytes(self) -> int:
        """To the end of the run."""
        return self._length_bytes - self.done_bytes

    def read(self, count: int, digest: ContentDigest | None = None) -> bytes:
        """The next bytes, at most `count`; digested as they were taken."""
        chunk = b"".join(piece.data for piece in self._next(min(count, self.left_bytes)))
        if digest is not None:
            digest.update(np.frombuffer(chunk, dtype=np.uint8))
        return chunk

    def write(self, chunk: bytes, digest: ContentDigest) -> None:
        """Put a chunk where it belongs, and digest what is there now."""
        assert len(chunk) <= self.left_bytes, "more than the run takes"
        source, first = np.frombuffer(chunk, dtype=np.uint8), 0
        for piece in self._next(len(source)):
            piece[:] = source[first : first + piece.nbytes]
            digest.update(piece)
            first += piece.nbytes

    def _next(self, count: int) -> Iterator[Bytes]:
        while count:
            view = self._views[self._view]
            piece = view[self._at : self._at + count]
            if not piece.nbytes:
                self._view, self._at = self._view + 1, 0
                continue
            self._at += piece.nbytes
            self.done_bytes += piece.nbytes
            count -= piece.nbytes
            yield piece
