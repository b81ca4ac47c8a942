"""The chained digest of a token sequence, and what two sequences share.

A chain digests tokens page by page: link(i) = H(link(i-1) || bytes of page i), starting
from a seed that holds everything the tokens mean besides their own bytes (the user
token's features, the feature widths). The digest at a count inside a page hashes the
partial page onto the last full link, so any count has one digest and equal digests at a
count mean equal tokens up to it.

A chain keeps the token bytes (about 20 bytes a behaviour), so that a later request's
history can be compared with what a psi was made from at any count.

Token 0 is the user token; behaviours follow.

Source: design, section 4 (identity and exactness).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

PAGE_TOKENS = 128
"""Tokens of one page of K/V: a multiple of 128, so that Ascend's paged operator can be used."""

DIGEST_BYTES = 16


class Chain:
    """An immutable token sequence with a digest at every count.

    Args:
        seed: bytes that belong to all tokens (user token, widths); any length.
        columns: one bytes-like per column, row-major, each a whole number of rows.
        row_bytes: bytes of a row of each column.
        count: behaviours; tokens are count + 1.
    """

    __slots__ = ("_columns", "_count", "_links", "_row_bytes", "_seed")

    def __init__(self, seed: bytes, columns: Sequence[bytes | memoryview], row_bytes: Sequence[int], count: int):
        assert len(columns) == len(row_bytes)
        for column, width in zip(columns, row_bytes, strict=True):
            assert memoryview(column).nbytes == width * count, "a column's length must be count rows"
        self._seed = bytes(seed)
        self._columns = tuple(memoryview(column).cast("B") for column in columns)
        self._row_bytes = tuple(row_bytes)
        self._count = count
        self._links: list[bytes] = [_hash(b"", (self._seed,))]

    @property
    def token_count(self) -> int:
        """Tokens of the whole sequence: the user token and the behaviours."""
        return self._count + 1

    def digest_at(self, tokens: int) -> bytes:
        """Digest of the first `tokens` tokens, 1 <= tokens <= token_count."""
        assert 1 <= tokens <= self.token_count
        behaviours = tokens - 1
        pages, rest = divmod(behaviours, PAGE_TOKENS)
        self._extend_links(pages)
        if not rest:
            return self._links[pages]
        return _hash(self._links[pages], self._rows(pages * PAGE_TOKENS, behaviours))

    @property
    def digest(self) -> bytes:
        """Digest of the whole sequence."""
        return self.digest_at(self.token_count)

    def shares(self, other: Chain, tokens: int) -> bool:
        """True when both sequences have the same first `tokens` tokens."""
        if tokens > self.token_count or tokens > other.token_count:
            return False
        return self.digest_at(tokens) == other.digest_at(tokens)

    def _extend_links(self, pages: int) -> None:
        while len(self._links) <= pages:
            first = (len(self._links) - 1) * PAGE_TOKENS
            self._links.append(_hash(self._links[-1], self._rows(first, first + PAGE_TOKENS)))

    def _rows(self, first: int, end: int) -> tuple[memoryview, ...]:
        pairs = zip(self._columns, self._row_bytes, strict=True)
        return tuple(column[first * width : end * width] for column, width in pairs)


def _hash(link: bytes, parts: Sequence[bytes | memoryview]) -> bytes:
    digest = hashlib.blake2b(link, digest_size=DIGEST_BYTES)
    for part in parts:
        # The length keeps (ab, c) and (a, bc) apart.
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()
