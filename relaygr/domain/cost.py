"""How long an extend takes, as an instance measured it.

time = fixed + token * new_tokens + pair * pairs, where pairs counts the (query, key)
pairs that the mask lets through. One formula covers pre-infer, append, ranking and full
inference, because all are the same operation with another mask.

Source: design, section 3 (ranker) and section 4.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class CostModel:
    """Measured coefficients, nanoseconds."""

    fixed_ns: float
    token_ns: float
    pair_ns: float
    reload_fixed_ns: float
    reload_byte_ns: float
    relative_error: float
    """P99 of |measured / predicted - 1|."""
    token_bytes: int
    """Device bytes of K/V held by one token over all layers."""
    candidates_typical: int

    def extend_ns(self, new_tokens: int, context_tokens: int) -> int:
        """A causal extend of `new_tokens` after `context_tokens`."""
        pairs = new_tokens * context_tokens + new_tokens * (new_tokens + 1) // 2
        return int(self.fixed_ns + self.token_ns * new_tokens + self.pair_ns * pairs)

    def rank_ns(self, candidates: int, delta_tokens: int, context_tokens: int) -> int:
        """Delta and candidates on `context_tokens` of psi."""
        seen = context_tokens + delta_tokens
        pairs = delta_tokens * context_tokens + delta_tokens * (delta_tokens + 1) // 2
        pairs += candidates * (seen + 1)
        return int(self.fixed_ns + self.token_ns * (delta_tokens + candidates) + self.pair_ns * pairs)

    def full_ns(self, candidates: int, delta_tokens: int, prefix_tokens: int) -> int:
        """Prefix, delta and candidates from nothing."""
        return self.rank_ns(candidates, prefix_tokens + delta_tokens, 0)

    def reload_ns(self, tokens: int) -> int:
        """DRAM to device."""
        return int(self.reload_fixed_ns + self.reload_byte_ns * tokens * self.token_bytes)

    def upper_ns(self, predicted_ns: int) -> int:
        """The prediction at the quantile of `relative_error`."""
        return int(predicted_ns * (1.0 + self.relative_error))

    def scaled(self, factor: float, relative_error: float) -> CostModel:
        """The same device when all it computes takes `factor` times as long; reloads stay as they are."""
        return replace(
            self,
            fixed_ns=factor * self.fixed_ns,
            token_ns=factor * self.token_ns,
            pair_ns=factor * self.pair_ns,
            relative_error=relative_error,
        )
