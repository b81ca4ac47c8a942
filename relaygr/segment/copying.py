"""Copies between pages and blocks, with the digest taken on the way.

Pages and blocks need not have one size: an entry is one run of bytes, cut at page
boundaries on one side and at block boundaries on the other. The kernels copy and digest in
one pass, from the same registers. Without them, numpy copies a piece and xxhash digests it
from where it arrived, while it is in the processor's cache. Either lets other threads run
meanwhile, and leaves the same bytes and the same digest.

Source: design, section 3 (expander), invariant I5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from relaygr.segment.digest import ContentDigest
from relaygr.segment.kernels import STEP_BYTES, KernelHash
from relaygr.segment.mapped import MappedSegment

Bytes = NDArray[np.uint8]


def copy_in(
    segment: MappedSegment,
    blocks: Sequence[int],
    generation: int,
    pages: Sequence[Bytes],
    digest: ContentDigest,
    should_stop: Callable[[], bool],
    step_bytes: int = STEP_BYTES,
) -> bool:
    """Write pages to granted blocks.

    Each block's generation is checked before it is touched and all of them at the end.

    Returns:
        False when stopped, which is asked at least every `step_bytes`, or when the blocks are
        not (or no longer) this generation's.
    """
    steps = _steps(segment, blocks, generation, pages, digest, is_store=True, step_bytes=step_bytes)
    return _are_done(steps, should_stop) and segment.owns(blocks, generation)


def copy_out(
    segment: MappedSegment,
    blocks: Sequence[int],
    generation: int,
    pages: Sequence[Bytes],
    digest: ContentDigest,
    should_stop: Callable[[], bool],
    step_bytes: int = STEP_BYTES,
) -> bool:
    """Read granted blocks into pages; the generation is checked before and after.

    Returns:
        False when stopped, or when the blocks are not (or no longer) this generation's.
        True says nothing about the bytes: compare the digest, then ask whether the pin held.
    """
    if not segment.owns(blocks, generation):
        return False
    steps = _steps(segment, blocks, generation, pages, digest, is_store=False, step_bytes=step_bytes)
    return _are_done(steps, should_stop) and segment.owns(blocks, generation)


def _are_done(steps: Iterator[bool], should_stop: Callable[[], bool]) -> bool:
    while not should_stop():
        went_well = next(steps, None)
        if went_well is None:
            return True
        if not went_well:
            return False
    return False


def _steps(
    segment: MappedSegment,
    blocks: Sequence[int],
    generation: int,
    pages: Sequence[Bytes],
    digest: ContentDigest,
    *,
    is_store: bool,
    step_bytes: int,
) -> Iterator[bool]:
    """Do the next step each time it is asked; False when a block to be written is not of this generation."""
    hasher = digest.hasher
    if isinstance(hasher, KernelHash):
        return hasher.transfer(segment, blocks, generation, pages, is_store=is_store, step_bytes=step_bytes)
    return _plain_steps(segment, blocks, generation, pages, digest, is_store)


def _plain_steps(
    segment: MappedSegment,
    blocks: Sequence[int],
    generation: int,
    pages: Sequence[Bytes],
    digest: ContentDigest,
    is_store: bool,
) -> Iterator[bool]:
    for index, at, piece in _pieces(segment.geometry.block_bytes, blocks, pages):
        if is_store and at == 0 and not segment.owns((index,), generation):
            yield False
            return
        there = segment.block(index)[at : at + len(piece)]
        target, source = (there, piece) if is_store else (piece, there)
        np.copyto(target, source)
        digest.update(target)
        yield True


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
