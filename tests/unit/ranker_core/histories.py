"""Histories for tests of the ranker's core: small, deterministic, and diverging where a test says so."""

from __future__ import annotations

from functools import lru_cache

from relaygr.domain.chain import Chain
from relaygr.domain.cost import CostModel
from relaygr.domain.identity import PsiKey, UserKey
from services.ranker.core.residency import RELOAD_WORTH_NS, Residency

DIVERGES_AT = {0: 1 << 30, 1: 50, 2: 150, 3: 257}
"""Behaviour from which a variant's history differs from variant 0."""

COST = CostModel(
    fixed_ns=1_000.0,
    token_ns=100.0,
    pair_ns=0.0,
    reload_fixed_ns=500.0,
    reload_byte_ns=1.0,
    relative_error=0.0,
    token_bytes=10,
    candidates_typical=10,
)
"""A token costs 100 ns, an extend 1 us on top; reloading a token costs 10 ns, a reload 0.5 us on top."""


def user(name: str) -> UserKey:
    return UserKey("default", name)


def key(name: str, anchor: int = 0) -> PsiKey:
    return PsiKey(user(name), "model-1", anchor)


@lru_cache(maxsize=1024)
def token_values(name: str, tokens: int, variant: int = 0) -> tuple[bytes, ...]:
    """What each token is: the content that a page must hold for it."""
    rows = (i.to_bytes(2, "little") + bytes([variant if i >= DIVERGES_AT[variant] else 0]) for i in range(tokens - 1))
    return (b"user:" + name.encode(), *(name.encode() + b":" + row for row in rows))


@lru_cache(maxsize=1024)
def chain(name: str, tokens: int, variant: int = 0) -> Chain:
    rows = b"".join(value[-3:] for value in token_values(name, tokens, variant)[1:])
    return Chain(b"user:" + name.encode(), [rows], [3], tokens - 1)


def residency(
    *,
    pages_total: int = 8,
    tickets_max: int = 8,
    entries_max: int = 8,
    ranks_max: int = 8,
    spills_max: int = 1,
    tombstone_ns: int = 1_000_000,
    rest_tokens: int = 0,
    reload_worth_ns: int = RELOAD_WORTH_NS,
    is_dram_remote: bool = False,
    cost: CostModel = COST,
) -> Residency:
    return Residency(
        pages_total=pages_total,
        tickets_max=tickets_max,
        entries_max=entries_max,
        ranks_max=ranks_max,
        spills_max=spills_max,
        tombstone_ns=tombstone_ns,
        cost=cost,
        rest_tokens=rest_tokens,
        reload_worth_ns=reload_worth_ns,
        is_dram_remote=bool(is_dram_remote),
    )
