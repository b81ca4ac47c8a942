"""The kernels that digest, and that copy and digest in one pass.

Which bytes go where is told in one structure per entry; a call then moves as many of them as
it is asked to, so that what Python costs does not grow with the number of blocks. Other
threads run during a call.

Source: design, section 3 (expander), invariant I5; docs/decisions/0007-reloads-past-the-caches.md has the figures.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from relaygr.native import NativeLibrary
from relaygr.segment.mapped import MappedSegment

STEP_BYTES = 2 * 1024 * 1024
"""Bytes of one call: about an eighth of a millisecond, after which the copy can be stopped. Half of it costs 5 %."""

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
        self._functions = _functions(library)
        self._level = library.level
        self._state = ctypes.create_string_buffer(self._functions.rgr_digest_bytes())
        self._functions.rgr_digest_begin(self._state)

    def update(self, data: Any, /) -> None:
        """Take the next bytes, from any contiguous buffer."""
        taken = np.frombuffer(data, dtype=np.uint8)
        self._functions.rgr_digest_update(self._state, taken.ctypes.data, taken.nbytes, self._level)

    def digest(self) -> bytes:
        """Of what was taken so far; more may be taken."""
        total, out = _SIZE(), ctypes.create_string_buffer(16)
        short = self._functions.rgr_digest_end(self._state, ctypes.byref(total), out)
        return xxhash.xxh3_128_digest(ctypes.string_at(short, total.value)) if short else out.raw

    def transfer(
        self,
        segment: MappedSegment,
        blocks: Sequence[int],
        generation: int,
        pages: Sequence[NDArray[np.uint8]],
        *,
        is_store: bool,
        step_bytes: int,
    ) -> Iterator[bool]:
        """Copy between pages and blocks, and take the bytes.

        Yields:
            True after each step; False when a block to be written is not of this generation, and nothing after that.
        """
        total = sum(page.nbytes for page in pages)
        geometry = segment.geometry
        assert len(blocks) * geometry.block_bytes >= total, "more bytes than blocks"
        assert all(0 <= block < geometry.block_count for block in blocks), "blocks outside the segment"
        assert all(page.flags.c_contiguous and (is_store or page.flags.writeable) for page in pages)
        # These arrays and views must outlive every call.
        data, generations = segment.blocks, segment.generations
        indices = np.asarray(blocks, dtype=np.uint32)
        addresses = np.array([page.ctypes.data for page in pages], dtype=np.uint64)
        lengths = np.array([page.nbytes for page in pages], dtype=np.uint64)
        run = _Run(
            data.ctypes.data,
            generations.ctypes.data,
            geometry.block_bytes,
            indices.ctypes.data,
            addresses.ctypes.data,
            lengths.ctypes.data,
            len(pages),
            generation,
            is_store,
        )
        for first in range(0, total, step_bytes):
            wanted = min(step_bytes, total - first)
            moved = self._functions.rgr_transfer(self._state, ctypes.byref(run), first, wanted, self._level)
            if moved < wanted:
                yield False
                return
            yield True
