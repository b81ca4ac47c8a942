"""Copies between pages and blocks, with the digest taken on the way.

Pages and blocks need not have one size: an entry is one run of bytes, cut at page
boundaries on one side and at block boundaries on the other, and into the digest's parts.
Several threads may work on one transfer, a part at a time. The kernels copy and digest in
one pass, from the same registers. Without them, numpy copies a piece and xxhash digests it
from where it arrived, while it is in the processor's cache. Either lets other threads run
meanwhile, and leaves the same bytes and the same digest.

Source: design, section 3 (expander), invariant I5.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from relaygr.segment.digest import PART_BYTES, ContentDigest, Hasher
from relaygr.segment.kernels import KernelHash, KernelRun
from relaygr.segment.mapped import MappedSegment

Bytes = NDArray[np.uint8]


class Transfer:
    """One entry on its way into granted blocks or out of them.

    Args:
        segment: that has the blocks.
        blocks: granted, in order.
        generation: of the grant.
        pages: contiguous byte views; their lengths add up to the digest's.
        digest: of the entry, unused.
        is_store: from pages to blocks, else from blocks to pages.
        step_bytes: moved between two questions whether to stop, at most a part.
    """

    def __init__(
        self,
        segment: MappedSegment,
        blocks: Sequence[int],
        generation: int,
        pages: Sequence[Bytes],
        digest: ContentDigest,
        *,
        is_store: bool,
        step_bytes: int = PART_BYTES,
    ):
        total = sum(page.nbytes for page in pages)
        assert total == digest.length_bytes, "other pages than were announced"
        assert len(blocks) * segment.geometry.block_bytes >= total, "more bytes than blocks"
        assert all(0 <= block < segment.geometry.block_count for block in blocks), "blocks outside the segment"
        self.segment, self.blocks, self._generation = segment, blocks, generation
        self._pages, self._digest, self.is_store, self.step_bytes = pages, digest, is_store, step_bytes
        self._next = itertools.count()
        self._run = self._kernel_run()
        self._is_lost = False

    @property
    def part_count(self) -> int:
        """How many threads can be of use."""
        return self._digest.part_count

    def is_sound(self) -> bool:
        """Whether every block is this generation's at this moment."""
        return not self._is_lost and self.segment.owns(self.blocks, self._generation)

    def work(self, should_stop: Callable[[], bool]) -> bool:
        """Take one part after the other until none is left; may run in several threads at once.

        Returns:
            False when stopped, which is asked before each step, or when a block to be written is not (or no longer)
            this generation's. Once each call has returned True, the bytes are where they belong, and `is_sound`
            tells whether they were the grant's all the time.
        """
        while not should_stop():
            index = next(self._next)  # one step of the interpreter: no two threads get the same
            if index >= self._digest.part_count:
                return not self._is_lost
            steps = self._steps(index)
            if not (self._move(*next(steps)) and all(not should_stop() and self._move(*step) for step in steps)):
                self._is_lost = True
                return False
        return False

    def _steps(self, part: int) -> Iterator[tuple[int, int, Hasher]]:
        """(first byte, count, hasher) of each step of a part."""
        begin, hasher = part * PART_BYTES, self._digest.part(part)
        end = min(begin + PART_BYTES, self._digest.length_bytes)
        for first in range(begin, end, self.step_bytes):
            yield first, min(self.step_bytes, end - first), hasher

    def _move(self, first: int, count: int, hasher: Hasher) -> bool:
        if self._run is not None and isinstance(hasher, KernelHash):
            return self._run.move(hasher, first, count)
        return self._move_plainly(first, count, hasher)

    def _kernel_run(self) -> KernelRun | None:
        """Made before any thread works, none of which could do anything while another makes it."""
        hasher = self._digest.part(0) if self.part_count else None
        if not isinstance(hasher, KernelHash):
            return None
        return KernelRun(hasher, self.segment, self.blocks, self._generation, self._pages, is_store=self.is_store)

    def _move_plainly(self, first: int, count: int, hasher: Hasher) -> bool:
        for index, at, piece in _pieces(self.segment.geometry.block_bytes, self.blocks, self._pages, first, count):
            if self.is_store and not self.segment.owns((index,), self._generation):
                return False
            there = self.segment.block(index)[at : at + len(piece)]
            target, source = (there, piece) if self.is_store else (piece, there)
            np.copyto(target, source)
            hasher.update(target.data)
        return True


def copy_in(
    segment: MappedSegment,
    blocks: Sequence[int],
    generation: int,
    pages: Sequence[Bytes],
    digest: ContentDigest,
    should_stop: Callable[[], bool],
    step_bytes: int = PART_BYTES,
) -> bool:
    """Write pages to granted blocks, in this thread.

    Each block's generation is checked before it is touched and all of them at the end.

    Returns:
        False when stopped, or when the blocks are not (or no longer) this generation's.
    """
    transfer = Transfer(segment, blocks, generation, pages, digest, is_store=True, step_bytes=step_bytes)
    return transfer.work(should_stop) and transfer.is_sound()


def copy_out(
    segment: MappedSegment,
    blocks: Sequence[int],
    generation: int,
    pages: Sequence[Bytes],
    digest: ContentDigest,
    should_stop: Callable[[], bool],
    step_bytes: int = PART_BYTES,
) -> bool:
    """Read granted blocks into pages, in this thread; the generation is checked before and after.

    Returns:
        False when stopped, or when the blocks are not (or no longer) this generation's.
        True says nothing about the bytes: compare the digest.
    """
    transfer = Transfer(segment, blocks, generation, pages, digest, is_store=False, step_bytes=step_bytes)
    return transfer.is_sound() and transfer.work(should_stop) and transfer.is_sound()


def _pieces(
    block_bytes: int, blocks: Sequence[int], pages: Sequence[Bytes], first: int, count: int
) -> Iterator[tuple[int, int, Bytes]]:
    """(block, offset in it, slice of a page) for each longest piece of [first, first + count) in one page and block."""
    begin = 0
    for page in pages:
        done, end = max(begin, first), min(begin + len(page), first + count)
        while done < end:
            position, at = divmod(done, block_bytes)
            some = min(end - done, block_bytes - at)
            yield blocks[position], at, page[done - begin : done - begin + some]
            done += some
        begin += len(page)
