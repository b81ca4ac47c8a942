"""Stores in flight: private to their writer until complete, quarantined when it goes silent.

    granted ──► STAGED ──complete──► published or discarded
                  │ overdue, or the writer's index was retired
                  ▼
             QUARANTINED ──the writer says it has ended, or its lock is free──► discarded

Nothing in quarantine is ever published, and its blocks are not handed out: the writer may
merely be stopped, and its next instruction may be a write into them.

Source: design, section 3 (expander), invariants I5, I7.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from relaygr.domain.identity import PsiKey, UserKey
from services.expander.core.blocks import Blocks, Holder


@dataclass(slots=True)
class Store:
    """One grant to write."""

    generation: int
    owner_index: int
    key: PsiKey
    tokens: int
    chain_digest: bytes
    length_bytes: int
    blocks: tuple[int, ...]
    due_ns: int
    is_doomed: bool = False
    """Its user was forgotten meanwhile: never to be published."""

    @property
    def holders(self) -> tuple[Holder, ...]:
        """Who its blocks are counted to, until it is published or its writer is known to be gone."""
        return self.key.owner.tenant, self.owner_index


class Stores:
    """Both kinds, with their bounds."""

    def __init__(self, blocks: Blocks, stores_max: int, per_owner_max: int, staging_blocks_max: int):
        self._blocks = blocks
        self._stores_max = stores_max
        self._per_owner_max = per_owner_max
        self._staging_blocks_max = staging_blocks_max
        self._staged: dict[int, Store] = {}  # in order of grant, which is the order of due times
        self._quarantined: dict[int, Store] = {}
        self._by_owner: dict[int, dict[int, Store]] = {}
        self._staging_blocks = 0
        self._quarantined_blocks = 0

    def __len__(self) -> int:
        return len(self._staged) + len(self._quarantined)

    @property
    def staging_blocks(self) -> int:
        """Blocks of stores that may still be published."""
        return self._staging_blocks

    @property
    def quarantined_blocks(self) -> int:
        """Blocks that may neither be published nor reused."""
        return self._quarantined_blocks

    def admits(self, owner_index: int, block_count: int) -> bool:
        """True when one more store of so many blocks is within the bounds."""
        return (
            len(self._staged) < self._stores_max
            and len(self._by_owner.get(owner_index, ())) < self._per_owner_max
            and self._staging_blocks + block_count <= self._staging_blocks_max
        )

    def add(self, store: Store) -> None:
        """Begin."""
        self._staged[store.generation] = store
        self._by_owner.setdefault(store.owner_index, {})[store.generation] = store
        self._staging_blocks += len(store.blocks)

    def staged(self, generation: int) -> Store | None:
        """A store that may still be published."""
        return self._staged.get(generation)

    def find(self, generation: int) -> Store | None:
        """A store of either kind."""
        return self._staged.get(generation) or self._quarantined.get(generation)

    def same(self, owner_index: int, key: PsiKey, tokens: int, chain_digest: bytes, length_bytes: int) -> Store | None:
        """This writer's staged store of the same content: what a repeated request is about."""
        for store in self._by_owner.get(owner_index, {}).values():
            content = (store.key, store.tokens, store.chain_digest, store.length_bytes)
            if content == (key, tokens, chain_digest, length_bytes) and store.generation in self._staged:
                return None if store.is_doomed else store
        return None

    def take(self, store: Store) -> None:
        """Take a store out whose blocks become an entry's."""
        del self._staged[store.generation]
        self._staging_blocks -= len(store.blocks)
        self._drop_from_owner(store)

    def discard(self, store: Store) -> None:
        """End a store whose writer has ended, or is known to be gone; its blocks are free."""
        if self._staged.pop(store.generation, None) is not None:
            self._staging_blocks -= len(store.blocks)
        else:
            del self._quarantined[store.generation]
            self._quarantined_blocks -= len(store.blocks)
        self._drop_from_owner(store)
        self._blocks.free(store.blocks, store.generation, store.holders)

    def quarantine(self, store: Store) -> None:
        """Never to be published; not to be reused yet."""
        del self._staged[store.generation]
        self._staging_blocks -= len(store.blocks)
        self._quarantined[store.generation] = store
        self._quarantined_blocks += len(store.blocks)

    def of_owner(self, owner_index: int) -> tuple[Store, ...]:
        """Both kinds."""
        return tuple(self._by_owner.get(owner_index, {}).values())

    def has_quarantined(self, owner_index: int) -> bool:
        """True when this owner let a store run over its time."""
        return any(generation in self._quarantined for generation in self._by_owner.get(owner_index, ()))

    def overdue(self, now_ns: int) -> Store | None:
        """A staged store whose time is over, or None."""
        store = next(iter(self._staged.values()), None)
        return store if store is not None and store.due_ns <= now_ns else None

    def doom(self, user: UserKey) -> int:
        """Mark a user's stores; how many there were that could still have been published."""
        doomed = 0
        for store in self._staged.values():
            if store.key.owner == user and not store.is_doomed:
                store.is_doomed = True
                self._blocks.revoke(store.blocks, store.generation)
                doomed += 1
        return doomed

    def deadline_ns(self) -> int | None:
        """When the first staged store is overdue."""
        store = next(iter(self._staged.values()), None)
        return None if store is None else store.due_ns

    def held(self) -> Iterable[Store]:
        """Every store that holds blocks."""
        return [*self._staged.values(), *self._quarantined.values()]

    def _drop_from_owner(self, store: Store) -> None:
        table = self._by_owner[store.owner_index]
        del table[store.generation]
        if not table:
            del self._by_owner[store.owner_index]

    def check(self) -> None:
        """Assert that the tables agree and the bounds hold."""
        assert not self._staged.keys() & self._quarantined.keys()
        assert {s.generation for s in self.held()} == {g for table in self._by_owner.values() for g in table}
        assert all(len(table) <= self._per_owner_max for table in self._by_owner.values())
        assert self._staging_blocks == sum(len(s.blocks) for s in self._staged.values()) <= self._staging_blocks_max
        assert self._quarantined_blocks == sum(len(s.blocks) for s in self._quarantined.values())
        assert len(self._staged) <= self._stores_max
        dues = [store.due_ns for store in self._staged.values()]
        assert dues == sorted(dues)
