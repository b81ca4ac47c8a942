"""Copies between pages and blocks, with the digest taken on the way.

Pages and blocks need not have one size: an entry is one run of bytes, cut at page
boundaries on one side and at block boundaries on the other. The digest is taken from where
the bytes arrived, right after each piece, while it is in the processor's cache. numpy and
xxhash let other threads run meanwhile.

Source: design, section 3 (expander), invariant I5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from relaygr.segment.digest import ContentDigest
from relaygr.segment.mapped import MappedSegment

Bytes = NDArray[np.uint8]


def copy_in(
    segment: MappedSegment,
    blocks: Sequence[int],
    generation: int,
    pages: Sequence[Bytes],
    digest: ContentDigest,
    should_stop: Callable[[], bool],
) -> bool:
    """Write pages to granted blocks.

    Each block's generation is checked before it is touched and all of them at the end.

    Returns:
        False when stopped, or when the blocks are not (or no longer) this generation's.
    """
    for index, at, piece in _pieces(segment.geometry.block_bytes, blocks, pages):
        if should_stop() or (at == 0 and not segment.owns((index,), generation)):
            return False
        target = segment.block(index)[at : at + len(piece)]
        np.copyto(target, piece)
        digest.update(target)
    return segment.owns(blocks, generation)


def copy_out(
    segment: MappedSegment,
    blocks: Sequence[int],
    generation: int,
    pages: Sequence[Bytes],
    digest: ContentDigest,
    should_stop: Callable[[], bool],
) -> bool:
    """Read granted blocks into pages; the generation is checked before and after.

    Returns:
        False when stopped, or when the blocks are not (or no longer) this generation's.
        True says nothing about the bytes: compare the digest, then ask whether the pin held.
    """
    if not segment.owns(blocks, generation):
        return False
    for index, at, piece in _pieces(segment.geometry.block_bytes, blocks, pages):
        if should_stop():
            return False
        np.copyto(piece, segment.block(index)[at : at + len(piece)])
        digest.update(piece)
    return segment.owns(blocks, generation)


def _pieces(block_bytes: int, blocks: Sequence[int], pages: Sequence[Bytes]) -> Iterator[tuple[int, int, Bytes]]:
    """(block, offset in it, slice of a page) for each longest piece within one page and one block."""
    done = 0
    for page in pages:
        first = 0
        while first < len(page):
            position, at = divmod(done, block_bytes)
            count = min(len(page) - first, block_bytes - at)
            yield blocks[position], at, page[first : first + count]
            first += count
            done += count
