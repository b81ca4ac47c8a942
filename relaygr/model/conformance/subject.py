"""A model under test, and what error is allowed to it.

Source: design, section 4 (identity and exactness).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from relaygr.model.interface import RelayModel, page_tokens
from relaygr.model.run import RankInputs

TOLERANCE = 1e-5
"""Of float32, by logit_error."""

DIFFERENCE_MIN = 100 * TOLERANCE
"""What another user's psi, or any other mistake that must be seen, moves the logits by."""

BFLOAT16_ERROR_MAX = 0.15
"""Of full bfloat16 against a float64 reference with the unrounded weights; about 40 roundings of a number near 1.

A bound against gross mistakes alone: small random models were measured at 0.01 to 0.07.
"""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model under test.

    item_ids are some of its vocabulary; limits, if smaller than what the checks use, are
    not enforced by a model and so do not matter here.
    """

    model: RelayModel
    item_ids: NDArray[np.int64]
    oracle: RelayModel | None = None
    """The same weights in float32; needed, and used, for bfloat16 only."""
    reference: Callable[[RankInputs], Tensor] | None = None
    """The model's definition in float64: logits [C, K] of full inference, with the unrounded weights."""
    error_max: float | None = None
    """Stated error of full inference against the reference, where it is not that of the dtype: quantised K/V."""
    relay_error_max: float | None = None
    """Stated error of cached against full, in place of what the dtype allows: quantised K/V."""
    reads_positions: bool = True
    """Whether a behaviour's place after the anchor is meant to matter."""
    reads_request_time: bool = True
    """Whether the time of the request is meant to matter."""

    def __post_init__(self) -> None:
        """A model that rounds needs a measure of its rounding."""
        is_exact = self.model.spec.identity.dtype == "float32"
        is_stated = self.relay_error_max is not None
        assert is_exact or self.oracle or is_stated, "bfloat16 needs an oracle, quantised K/V relay_error_max"

    @property
    def page(self) -> int:
        """Tokens of a page: the one place where the checks take it from."""
        return page_tokens(self.model)

    @property
    def reference_error_max(self) -> float:
        """What full inference may differ by from the reference."""
        if self.error_max is not None:
            return self.error_max
        return TOLERANCE if self.model.spec.identity.dtype == "float32" else BFLOAT16_ERROR_MAX
