"""Attention without the matrix, in one go: blocks.py driven to its end.

Source: design, section 4, conditions 1 and 3.
"""

from __future__ import annotations

from torch import Tensor

from relaygr.model.ops import blocks
from relaygr.model.pages import CachedKV


def attend(
    q_HRK: Tensor,
    k_HTK: Tensor,
    v_HTV: Tensor,
    cached: CachedKV,
    self_only: int,
    scale: float,
    normaliser: int,
) -> Tensor:
    """As ops/__init__.py says."""
    slices = blocks.attend(q_HRK, k_HTK, v_HTV, cached, self_only, scale, normaliser)
    while True:
        try:
            next(slices)
        except StopIteration as stop:
            attended: Tensor = stop.value
            return attended
