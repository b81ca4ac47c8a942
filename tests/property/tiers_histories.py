"""What psi is where both tiers are tested: bytes that tell whose they are.

All users have the same histories, so their chains are equal and only their keys differ; the
bytes of a token follow from the key, from all tokens up to it, and from the user's *life*,
which a forget ends. So bytes of another user, of another model, of a diverged history or of a
forgotten life are seen at once, wherever they turn up.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from relaygr.domain.chain import PAGE_TOKENS, Chain
from relaygr.domain.identity import PsiKey, UserKey

TOKEN_BYTES = 24
PAGE_BYTES = PAGE_TOKENS * TOKEN_BYTES
"""Not a whole part of a block, so that pages and blocks are cut in different places."""
TOKENS_MAX = 400
LENGTHS = (1, 60, 128, 129, 200, 300, TOKENS_MAX)
DIVERGES_AT = {0: TOKENS_MAX, 1: 50, 2: 150, 3: 257}
"""Token from which a variant's history differs from variant 0."""
OWNERS = (UserKey("t1", "ann"), UserKey("t1", "bob"), UserKey("t2", "ann"))
ANCHORS = (0, 128)

Bytes = NDArray[np.uint8]


@lru_cache(maxsize=256)
def history(tokens: int, variant: int = 0) -> Chain:
    """A chain of so many tokens."""
    diverges_at = DIVERGES_AT[variant]
    rows = (i.to_bytes(2, "little") + bytes([variant if i + 1 >= diverges_at else 0]) for i in range(tokens - 1))
    return Chain(b"seed", [b"".join(rows)], [3], tokens - 1)


@lru_cache(maxsize=1)
def _variants() -> dict[bytes, int]:
    """The variant of every digest, the lowest where variants have not diverged yet."""
    found: dict[bytes, int] = {}
    for variant in DIVERGES_AT:
        whole = history(TOKENS_MAX, variant)
        for tokens in range(1, TOKENS_MAX + 1):
            found.setdefault(whole.digest_at(tokens), variant)
    return found


def variant_of(digest: bytes) -> int:
    """The lowest variant of which this is a digest."""
    return _variants()[digest]


def psi(key: PsiKey, life: int, digest: bytes, tokens: int) -> Bytes:
    """Psi's bytes of a history with this digest at `tokens` tokens or later, `[tokens, TOKEN_BYTES]`."""
    return _psi(key, life, variant_of(digest))[:tokens]


@lru_cache(maxsize=1024)
def _psi(key: PsiKey, life: int, variant: int) -> Bytes:
    made = _noise((key, life, 0))
    first = DIVERGES_AT[variant]
    if first < TOKENS_MAX:
        made[first:] = _noise((key, life, variant))[first:]
    made.flags.writeable = False
    return made


def _noise(seed: object) -> Bytes:
    number = int.from_bytes(hashlib.blake2b(repr(seed).encode(), digest_size=8).digest(), "little")
    return np.random.default_rng(number).integers(0, 256, (TOKENS_MAX, TOKEN_BYTES), dtype=np.uint8)
