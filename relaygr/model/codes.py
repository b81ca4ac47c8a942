"""Position and time codes of tokens.

A token's codes depend on what comes before it in the same sequence: its index from the
anchor and the gap to the previous behaviour's own timestamp. Nothing looks at the length
of the sequence or, for behaviours, at the time of the request; so a prefix embeds alike
for every request that shares it.

Source: docs/decisions/0001-position-and-time-codes.md.
Source: design, section 4, condition 2.
"""

from __future__ import annotations

import torch
from torch import Tensor

GAP_FIRST = 0
"""Code of a token that no behaviour precedes."""


def gap_codes(gaps_s: Tensor, buckets: int) -> Tensor:
    """Codes of gaps, int64 seconds: 1 + floor(log2(gap + 1)), at most buckets - 1; a negative gap counts as 0.

    Computed on integers, so that no rounding can put one gap into two buckets.
    """
    boundaries = torch.tensor([(1 << power) - 1 for power in range(1, buckets - 1)], device=gaps_s.device)
    return 1 + torch.bucketize(gaps_s, boundaries, right=True)


def sequence_gap_codes(timestamps_s: Tensor, before_s: int | None, buckets: int) -> Tensor:
    """Codes of consecutive tokens; before_s is the timestamp before the first, or None when there is none."""
    previous_s = timestamps_s.roll(1)
    if len(timestamps_s) and before_s is not None:
        previous_s[0] = before_s
    codes = gap_codes(timestamps_s - previous_s, buckets)
    if len(timestamps_s) and before_s is None:
        codes[0] = GAP_FIRST
    return codes


def position_codes(positions: Tensor, rows: int) -> Tensor:
    """Rows of the position table; positions beyond it share its last row."""
    return positions.clamp(max=rows - 1)
