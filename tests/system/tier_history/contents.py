"""What a run stores: users, versions of their histories, and bytes that follow from both."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

from relaygr.domain.identity import ModelIdentity, PsiKey, UserKey

MODEL = ModelIdentity("m", "1", "ab" * 32, "float32", "paged128", 1024)
TENANT = "t"
USERS = tuple(f"user-{number}" for number in range(24))
TOKENS_OF_PAGE = 100
PAGE_BYTES = 10_000
"""Neither a block nor a divisor of one, so every entry's last block has bytes that belong to nobody."""
PAGES_MAX = 5
BRANCHES = 3

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Content:
    """One version of a user's history: so long, and on this of several branches that rewrite it."""

    user: str
    tokens: int
    branch: int

    @property
    def chain(self) -> bytes:
        """Stands for the chained digest of the tokens, 16 bytes."""
        return hashlib.blake2b(f"{self.user}/{self.tokens}/{self.branch}".encode(), digest_size=16).digest()

    @property
    def length_bytes(self) -> int:
        """Of all pages."""
        return self.tokens // TOKENS_OF_PAGE * PAGE_BYTES


@functools.cache
def bytes_of(content: Content) -> Bytes:
    """The entry's bytes; no two contents have a page in common."""
    made = np.random.default_rng(int.from_bytes(content.chain, "little"))
    filled = made.integers(0, 256, content.length_bytes, dtype=np.uint8)
    filled.flags.writeable = False
    return filled


@functools.cache
def hash_of(content: Content) -> str:
    """What the bytes of this content hash to."""
    return hash_bytes(bytes_of(content))


def hash_bytes(filled: Bytes) -> str:
    """By another function than the tier's own digest."""
    return hashlib.blake2b(filled.data, digest_size=16).hexdigest()


def pages_of(filled: Bytes) -> list[Bytes]:
    """Views, one for each page."""
    return [filled[first : first + PAGE_BYTES] for first in range(0, len(filled), PAGE_BYTES)]


def key_of(user: str) -> PsiKey:
    """The key all versions of a user's history share."""
    return PsiKey(UserKey(TENANT, user), MODEL.key, 0)


def any_content(rng: Random, user: str, tokens_least: int = TOKENS_OF_PAGE) -> Content:
    """A version at least so long."""
    pages = rng.randint(min(tokens_least // TOKENS_OF_PAGE, PAGES_MAX), PAGES_MAX)
    return Content(user, pages * TOKENS_OF_PAGE, rng.randrange(BRANCHES))
