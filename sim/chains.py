"""Histories without bytes: as chains of one user's tokens that say what they share.

The cores ask of a chain only its length, the digest at a count, and whether two agree up to a count. A
simulated history is a user's log, told apart by its text (a rewritten log is another text from some count
on), so each answer takes a constant time and a user costs no memory.

Source: design, section 4.
"""

from __future__ import annotations

from relaygr.domain.chain import Chain


class LogChain(Chain):
    """The first `tokens` tokens of a user's log."""

    __slots__ = ("same_until", "text", "tokens", "user")

    def __init__(self, user: int, tokens: int, text: int = 0, same_until: int = 0) -> None:
        """`text` counts rewrites; the last one left the first `same_until` tokens as they were."""
        self.user = user
        self.tokens = tokens
        self.text = text
        self.same_until = same_until

    @property
    def token_count(self) -> int:
        """Tokens of the whole sequence."""
        return self.tokens

    def digest_at(self, tokens: int) -> bytes:
        """Digest of the first `tokens` tokens."""
        assert 1 <= tokens <= self.tokens
        return b"%d/%d/%d" % (self.user, self.text_at(tokens), tokens)

    def text_at(self, tokens: int) -> int:
        """The rewrite that these tokens are of."""
        return self.text if tokens > self.same_until else 0

    def shares(self, other: Chain, tokens: int) -> bool:
        """True when both have the same first `tokens` tokens."""
        assert isinstance(other, LogChain)
        if tokens > self.tokens or tokens > other.tokens or self.user != other.user:
            return False
        return self.text_at(tokens) == other.text_at(tokens)

    def __repr__(self) -> str:
        return f"LogChain({self.user}, {self.tokens}, {self.text})"
