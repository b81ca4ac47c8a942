"""A DRAM tier of one entry: the real shared-memory segment, without the services around it.

Blocks are cut otherwise than pages, so that copies begin and end inside of both.

Source: design, section 3 (expander), invariant I5.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from relaygr.domain.identity import PsiKey, UserKey
from relaygr.segment import ContentDigest, Geometry, MappedSegment, OwnedSegment, copy_in, copy_out, identity_bytes

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - a directory of our own is made in it
BLOCK_BYTES = 3 * 4096
IDENTITY = identity_bytes(PsiKey(UserKey("tenant", "user"), "model", 0), b"chain")


@dataclass(frozen=True, slots=True)
class Spilled:
    """What the expander keeps of an entry besides its bytes."""

    token_count: int
    generation: int
    digest: bytes


class Dram:
    """A segment in a directory of its own, both ends in one process; a context manager."""

    def __init__(self, page_bytes: int, pages_max: int):
        self._page_bytes = page_bytes
        blocks = -(-page_bytes * pages_max // BLOCK_BYTES)
        self._geometry, self._blocks, self._generation = Geometry(BLOCK_BYTES, blocks), tuple(range(blocks)), 0
        base = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
        self._folder = tempfile.TemporaryDirectory(prefix="relaygr-conformance-", dir=base)
        boot_id, geometry = "c" * 32, self._geometry
        self._owned = OwnedSegment(Path(self._folder.name), "conformance", boot_id, geometry)
        self._mapped = MappedSegment.open(
            self._owned.path, boot_id=boot_id, segment_bytes=geometry.total_bytes, block_bytes=BLOCK_BYTES
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._mapped.close()
        self._owned.close()
        self._folder.cleanup()

    def store(self, arena: Tensor, page_ids: Sequence[int], token_count: int) -> Spilled:
        """Copy pages in, over the entry before."""
        self._generation += 1
        blocks = self._blocks_of(page_ids)
        self._owned.stamp(blocks, self._generation)
        digest = self._digest(token_count, page_ids)
        assert copy_in(self._mapped, blocks, self._generation, _bytes(arena, page_ids), digest, lambda: False)
        return Spilled(token_count, self._generation, digest.digest())

    def load(self, spilled: Spilled, arena: Tensor, page_ids: Sequence[int]) -> bool:
        """Copy an entry out; whether its bytes arrived whole and in order."""
        digest = self._digest(spilled.token_count, page_ids)
        blocks = self._blocks_of(page_ids)
        pages = [np.empty(self._page_bytes, np.uint8) for _ in page_ids]
        copied = copy_out(self._mapped, blocks, spilled.generation, pages, digest, lambda: False)
        for page_id, page in zip(page_ids, pages, strict=True):
            arena[page_id] = torch.from_numpy(page).view(arena.dtype).to(arena.device)
        return copied and digest.digest() == spilled.digest

    def _blocks_of(self, page_ids: Sequence[int]) -> tuple[int, ...]:
        # From the last block to the first: an entry's blocks need not be in order either.
        return self._blocks[::-1][: -(-len(page_ids) * self._page_bytes // BLOCK_BYTES)]

    def _digest(self, token_count: int, page_ids: Sequence[int]) -> ContentDigest:
        return ContentDigest(IDENTITY, token_count, len(page_ids) * self._page_bytes)


def _bytes(arena: Tensor, page_ids: Sequence[int]) -> list[NDArray[np.uint8]]:
    return [arena[page].cpu().view(torch.uint8).numpy() for page in page_ids]
