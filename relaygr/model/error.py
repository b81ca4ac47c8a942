"""The measure of exactness."""

from __future__ import annotations

from torch import Tensor


def logit_error(got: Tensor, wanted: Tensor) -> float:
    """Largest |difference| / max(1, |wanted|); not a number when either holds one.

    Source: design, section 4.
    """
    assert got.shape == wanted.shape, f"{tuple(got.shape)} against {tuple(wanted.shape)}"
    got, wanted = got.double(), wanted.double()
    return float(((got - wanted).abs() / wanted.abs().clamp(min=1.0)).max())
