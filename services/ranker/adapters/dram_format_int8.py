"""Pages as int8 codes: what a page becomes in the DRAM tier, and how it comes back.

A page's elements are taken in the order in which they lie, 64 to a group. A group keeps its largest magnitude, in
its own dtype, and one code of a byte per element:

    code = round(element * (127 / bound)), halves to even     element = code * (bound * (1 / 127)), +-127 is +-bound

all in float32. Because the bound itself comes back exactly, whatever was expanded gives the same bytes again:
psi that travels many times loses once. Zeros stay zeros. A page's bytes depend on nothing but that page. A group
whose bound is below 2^-100 is zero, so that no mode of the processor for subnormal numbers changes a bit.

Stored: the bounds of all groups, then the codes. 66 bytes for 128 of bfloat16, 68 for 256 of float32.

The kernels and numpy leave the same bits; any thread may call, and lets others run meanwhile.

Source: docs/decisions/0015-int8-in-dram.md; relaygr/native/src/quantise.h.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relaygr.native import NativeLibrary, load

Bytes = NDArray[np.uint8]

GROUP_ELEMENTS = 64
CODE_MAX = 127
ELEMENT_BYTES = {"bfloat16": 2, "float32": 4}

_EXPONENT_BITS = 8
_LEAST_EXPONENT = 127 - 100
_STEP = np.float32(1) / np.float32(CODE_MAX)
_BLOCK_GROUPS = 1024
"""Groups that numpy takes at a time, so that what it widens stays in the processor's cache."""


class Int8Codec:
    """Codes of pages of one size and dtype.

    Args:
        dtype: of the elements: "bfloat16" or "float32".
        page_elements: of a page.
        library: the kernels, or None for numpy.

    Raises:
        ValueError: there are no codes for this dtype, or a page is not whole groups.
    """

    def __init__(self, dtype: str, page_elements: int, library: NativeLibrary | None):
        if dtype not in ELEMENT_BYTES:
            raise ValueError(f"dram_dtype int8 is for float32 and bfloat16 K/V, not for {dtype}")
        if page_elements % GROUP_ELEMENTS:
            raise ValueError(f"dram_dtype int8 needs pages of a multiple of {GROUP_ELEMENTS}, not {page_elements}")
        self._element_bytes = ELEMENT_BYTES[dtype]
        self._groups = page_elements // GROUP_ELEMENTS
        self._library = library

    @property
    def page_bytes(self) -> int:
        """Of a page on the device."""
        return self._groups * GROUP_ELEMENTS * self._element_bytes

    @property
    def stored_bytes(self) -> int:
        """Of a page in the DRAM tier."""
        return self._groups * (GROUP_ELEMENTS + self._element_bytes)

    def encode(self, page: Bytes, stored: Bytes) -> bool:
        """Write a page's codes.

        Returns:
            False when the page holds an infinity or a NaN; what was written is then undefined.
        """
        self._check(page, stored)
        if self._library is None:
            return self._encode_by_numpy(page, stored)
        function = _functions(self._library).rgr_quantise
        arguments = (page.ctypes.data, self._groups, self._element_bytes, stored.ctypes.data, self._library.level)
        return bool(function(*arguments) == self._groups)

    def decode(self, stored: Bytes, page: Bytes) -> None:
        """Write the page that codes stand for; they must be whole, which their digest tells."""
        self._check(page, stored)
        if self._library is None:
            self._decode_by_numpy(stored, page)
            return
        function = _functions(self._library).rgr_expand
        function(stored.ctypes.data, self._groups, self._element_bytes, page.ctypes.data, self._library.level)

    def _check(self, page: Bytes, stored: Bytes) -> None:
        assert (page.nbytes, stored.nbytes) == (self.page_bytes, self.stored_bytes), "not pages of this size"
        assert page.flags.c_contiguous and stored.flags.c_contiguous, "pages lie in one piece"

    def _views(self, page: Bytes, stored: Bytes) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int8]]:
        """Bits of elements [groups, 64], bits of bounds [groups], codes [groups, 64]."""
        bits = np.dtype(f"u{self._element_bytes}")
        split = self._groups * self._element_bytes
        codes = stored[split:].view(np.int8).reshape(self._groups, GROUP_ELEMENTS)
        return page.view(bits).reshape(self._groups, GROUP_ELEMENTS), stored[:split].view(bits), codes

    def _encode_by_numpy(self, page: Bytes, stored: Bytes) -> bool:
        bits, bounds, codes = self._views(page, stored)
        mantissa_bits = 8 * self._element_bytes - 1 - _EXPONENT_BITS
        magnitude = (1 << 8 * self._element_bytes - 1) - 1
        for first in range(0, self._groups, _BLOCK_GROUPS):
            block = slice(first, first + _BLOCK_GROUPS)
            most = (bits[block] & magnitude).max(axis=1)
            if (most >> mantissa_bits == (1 << _EXPONENT_BITS) - 1).any():
                return False
            most[most >> mantissa_bits < _LEAST_EXPONENT] = 0
            bounds[block] = most
            wide = self._widened(most)
            factors = np.divide(np.float32(CODE_MAX), wide, out=np.zeros_like(wide), where=wide > 0)
            codes[block] = np.rint(self._widened(bits[block]) * factors[:, None])
        return True

    def _decode_by_numpy(self, stored: Bytes, page: Bytes) -> None:
        bits, bounds, codes = self._views(page, stored)
        for first in range(0, self._groups, _BLOCK_GROUPS):
            block = slice(first, first + _BLOCK_GROUPS)
            bound, code = self._widened(bounds[block])[:, None], codes[block].astype(np.float32)
            values = np.where(np.abs(code) == CODE_MAX, np.copysign(bound, code), code * (bound * _STEP))
            bits[block] = self._narrowed(values)

    def _widened(self, bits: NDArray[Any]) -> NDArray[np.float32]:
        if self._element_bytes == 2:
            bits = bits.astype(np.uint32) << 16
        return bits.view(np.float32)

    def _narrowed(self, values: NDArray[np.float32]) -> NDArray[Any]:
        """Bits in the elements' dtype, halves to even."""
        bits = values.view(np.uint32)
        return bits if self._element_bytes == 4 else (bits + 0x7FFF + (bits >> 16 & 1)) >> 16


def int8_codec(dtype: str, page_elements: int) -> Int8Codec:
    """By the kernels where they are built, else by numpy; errors as of `Int8Codec`."""
    return Int8Codec(dtype, page_elements, load())


@functools.cache
def _functions(library: NativeLibrary) -> Any:
    made = library.functions
    pointer, size = ctypes.c_void_p, ctypes.c_uint64
    made.rgr_quantise.argtypes = (pointer, size, ctypes.c_uint32, pointer, ctypes.c_int)
    made.rgr_quantise.restype = size
    made.rgr_expand.argtypes = (pointer, size, ctypes.c_uint32, pointer, ctypes.c_int)
    made.rgr_expand.restype = None
    return made
