"""A core of the DRAM tier with two rankers attached, a clock, and stamps as a reader would see them."""

from __future__ import annotations

from dataclasses import replace

from relaygr.domain.identity import PsiKey, UserKey
from services.expander.core.effects import Found, StoreGrant
from services.expander.core.entries import Content
from services.expander.core.limits import TieringLimits
from services.expander.core.tiering import Tiering

LIMITS = TieringLimits(
    block_bytes=10,
    block_count=10,
    owners_max=3,
    entries_max=8,
    pins_max=4,
    pinned_blocks_max=8,
    stores_max=3,
    stores_per_owner_max=2,
    staging_blocks_max=8,
    tenant_blocks_max=10,
    tombstones_max=2,
    owner_lapse_ns=100,
    probe_ns=10,
    pin_ns=50,
    store_ns=60,
    entry_age_ns=1_000,
    tombstone_ns=500,
)
CHAIN = b"c"


def key_of(user: str = "u", tenant: str = "t") -> PsiKey:
    return PsiKey(UserKey(tenant, user), "m", 0)


class Stamps(dict):
    """Who may use which block, as a reader would see it."""

    def stamp(self, blocks, generation):
        self.update(dict.fromkeys(blocks, generation))

    def clear(self, blocks):
        for block in blocks:
            self.pop(block, None)


class Host:
    """A core with two rankers attached, and a clock."""

    def __init__(self, **changes: int):
        self.stamps = Stamps()
        self.core = Tiering(replace(LIMITS, **changes), stamps=self.stamps)
        self.now = 0
        self.a, self.b = self.attach("a"), self.attach("b")

    def attach(self, owner: str, epoch: int = 1) -> int | None:
        return self.core.attach(owner, epoch, self.now)

    def prepare(self, user: str = "u", blocks: int = 2, tokens: int = 5, by: int | None = None, chain: bytes = CHAIN):
        index = self.a if by is None else by
        return self.core.prepare_store(index, key_of(user), tokens, chain, blocks * 10, self.now)

    def complete(self, grant: StoreGrant, tokens: int = 5, by: int | None = None, chain: bytes = CHAIN, **changes):
        content = Content(tokens, chain, len(grant.blocks) * 10, b"d", "trace")
        index = self.a if by is None else by
        written = changes.get("written", True)
        return self.core.complete_store(index, grant.store_id, written, content, self.now)

    def store(self, user: str = "u", blocks: int = 2, tokens: int = 5) -> StoreGrant:
        grant = self.prepare(user, blocks, tokens)
        assert isinstance(grant, StoreGrant), grant
        assert self.complete(grant, tokens)
        return grant

    def lookup(self, user: str = "u") -> Found | None:
        return self.core.lookup(self.a, key_of(user), self.now)

    def end(self, found: Found, verified: bool = True) -> bool:
        return self.core.complete_load(self.a, found.pin_id, verified, self.now)

    def free(self) -> int:
        self.core.check()
        self.core.check_sums()
        return self.core.occupancy().free_blocks

    def beat(self, until: int):
        while self.now < until:
            self.now = min(until, self.now + 20)
            self.attach("a")
            self.attach("b")
