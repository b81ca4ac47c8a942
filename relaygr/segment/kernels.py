"""The kernels that digest, and that copy and digest in one pass.

Which bytes go where is told in one structure per entry; a call then moves as many of them as
it is asked to, wherever they begin, so that what Python costs does not grow with the number of blocks. Other
threads run during a call.

Source: design, section 3 (expander), invariant I5; docs/decisions/0007-reloads-past-the-caches.md has the figures.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from relaygr.native import NativeLibrary
from relaygr.segment.mapped import MappedSegment

_SIZE, _POINTER = ctypes.c_uint64, ctypes.c_void_p


class _Run(ctypes.Structure):
    """RgrTransfer in native/src/copy.cpp, field by field."""

    _fields_ = (
        ("data", _POINTER),
        ("generations", _POINTER),
        ("block_bytes", _SIZE),
        ("blocks", _POINTER),
        ("pages", _POINTER),
        ("page_bytes", _POINTER),
        ("page_count", _SIZE),
        ("generation", _SIZE),
        ("is_store", ctypes.c_uint32),
    )


@functools.cache
def _functions(library: NativeLibrary) -> Any:
    made = library.functions
    made.rgr_digest_bytes.restype = ctypes.c_size_t
    made.rgr_digest_begin.argtypes = (_POINTER,)
    made.rgr_digest_begin.restype = None
    made.rgr_digest_update.argtypes = (_POINTER, _POINTER, ctypes.c_size_t, ctypes.c_int)
    made.rgr_digest_update.restype = None
    made.rgr_digest_end.argtypes = (_POINTER, _POINTER, _POINTER)
    made.rgr_digest_end.restype = _POINTER
    made.rgr_transfer.argtypes = (_POINTER, _POINTER, _SIZE, _SIZE, ctypes.c_int)
    made.rgr_transfer.restype = _SIZE
    return made


class KernelHash:
    """A running xxh3-128 by the kernels; the same digest as `xxhash.xxh3_128` of the same bytes."""

    def __init__(self, library: NativeLibrary):
        self.functions = _functions(library)
        self.level = library.level
        self.state = ctypes.create_string_buffer(self.functions.rgr_digest_bytes())
        self.functions.rgr_digest_begin(self.state)

    def update(self, data: Any, /) -> None:
        """Take the next bytes, from any contiguous buffer."""
        taken = np.frombuffer(data, dtype=np.uint8)
        self.functions.rgr_digest_update(self.state, taken.ctypes.data, taken.nbytes, self.level)

    def digest(self) -> bytes:
        """Of what was taken so far; more may be taken."""
        total, out = _SIZE(), ctypes.create_string_buffer(16)
        short = self.functions.rgr_digest_end(self.state, ctypes.byref(total), out)
        return xxhash.xxh3_128_digest(ctypes.string_at(short, total.value)) if short else out.raw


class KernelRun:
    """Where the bytes of one transfer lie, told to the kernels once.

    Args:
        kernels: any hash of the library that moves them.
        segment: that has the blocks.
        blocks: inside the segment, enough for the pages' bytes.
        generation: of the grant.
        pages: contiguous byte views; writeable unless stored.
        is_store: from pages to blocks.
    """

    def __init__(
        self,
        kernels: KernelHash,
        segment: MappedSegment,
        blocks: Sequence[int],
        generation: int,
        pages: Sequence[NDArray[np.uint8]],
        *,
        is_store: bool,
    ):
        assert all(page.flags.c_contiguous and (is_store or page.flags.writeable) for page in pages)
        self._functions, self._level = kernels.functions, kernels.level
        data, generations = segment.blocks, segment.generations
        indices = np.asarray(blocks, dtype=np.uint32)
        addresses = np.array([page.ctypes.data for page in pages], dtype=np.uint64)
        lengths = np.array([page.nbytes for page in pages], dtype=np.uint64)
        self._kept = (data, generations, indices, addresses, lengths, pages)  # must outlive every call
        self._run = _Run(
            data.ctypes.data,
            generations.ctypes.data,
            segment.geometry.block_bytes,
            indices.ctypes.data,
            addresses.ctypes.data,
            lengths.ctypes.data,
            len(pages),
            generation,
            is_store,
        )

    def move(self, hasher: KernelHash, first: int, count: int) -> bool:
        """Copy bytes [first, first + count) and take them; False when a block to be written has changed hands."""
        moved = self._functions.rgr_transfer(hasher.state, ctypes.byref(self._run), first, count, self._level)
        return bool(moved == count)
