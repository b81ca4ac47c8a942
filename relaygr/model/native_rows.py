"""Token rows on the native kernel: each a sum of rows of up to four tables, in one call.

What torch needs a dozen operators for, each of which gives up the interpreter lock and takes it again. The sums are
rounded after each addition, as torch's are: both make the same rows to the bit.

Shapes: T tokens, D hidden width.

Source: relaygr/native/src/sums.h.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_int32, c_int64, c_void_p

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from relaygr.model.codes import GAP_FIRST
from relaygr.native import NativeLibrary

SUMMANDS_MAX = 4

Rows = NDArray[np.int64]


class _Sums(ctypes.Structure):
    """RgrSums, field by field."""

    _fields_ = (
        ("table", c_void_p * SUMMANDS_MAX),
        ("row", c_void_p * SUMMANDS_MAX),
        ("table_rows", c_int64 * SUMMANDS_MAX),
        ("tokens", c_int64),
        *((name, c_int32) for name in ("summands", "width", "is_half")),
    )


class NativeRows:
    """Sums of table rows.

    Args:
        library: the kernels.
        level: instruction set to use.
    """

    def __init__(self, library: NativeLibrary, level: int):
        self._sum = library.functions.rgr_sum_rows
        self._sum.restype, self._sum.argtypes = c_int64, (ctypes.POINTER(_Sums), c_void_p, c_int32)
        self._level = level

    def sum(self, tables: Sequence[Tensor], rows: Sequence[Rows]) -> Tensor:
        """[T, D]: for each token the sum of one row of each table, from the first to the last.

        Args:
            tables: two to four of [rows, D], float32 or bfloat16, alike, on the host.
            rows: of each table, int64 [T].
        """
        first = tables[0]
        assert 2 <= len(tables) == len(rows) <= SUMMANDS_MAX
        assert all(table.is_contiguous() and table.dtype == first.dtype for table in tables)
        tokens, width = len(rows[0]), first.shape[1]
        kept = [np.ascontiguousarray(of_table, np.int64) for of_table in rows]
        assert all(len(of_table) == tokens for of_table in kept)
        sums = _Sums(tokens=tokens, summands=len(tables), width=width, is_half=first.dtype == torch.bfloat16)
        for index, (table, of_table) in enumerate(zip(tables, kept, strict=True)):
            sums.table[index], sums.row[index] = table.data_ptr(), of_table.ctypes.data
            sums.table_rows[index] = table.shape[0]
        out = torch.empty(tokens, width, dtype=first.dtype)
        wrong = self._sum(sums, out.data_ptr(), self._level)
        assert wrong < 0, f"token {wrong} has a row that its table does not have"
        return out


class GapCodes:
    """`codes.sequence_gap_codes` in numpy.

    Args:
        buckets: codes there are.
    """

    def __init__(self, buckets: int):
        self._bounds = np.array([(1 << power) - 1 for power in range(1, buckets - 1)], np.int64)

    def of(self, timestamps_s: NDArray[np.int64], before_s: int | None) -> Rows:
        """Codes of consecutive tokens; before_s as there."""
        if not len(timestamps_s):
            return np.empty(0, np.int64)
        gaps_s = np.empty(len(timestamps_s), np.int64)
        gaps_s[0] = 0 if before_s is None else timestamps_s[0] - before_s
        np.subtract(timestamps_s[1:], timestamps_s[:-1], out=gaps_s[1:])
        codes: Rows = self._bounds.searchsorted(gaps_s, side="right") + 1
        if before_s is None:
            codes[0] = GAP_FIRST
        return codes
