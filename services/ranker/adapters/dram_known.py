"""What a ranker remembers of entries in its host's DRAM tier: where they lie, and what must come out.

Most users who come back come back to the instance that stored their psi. It knows all that a lookup would tell; what it
cannot know is whether that still holds, and that the stamps say: a block bears an entry's stamp exactly while the entry
is what its key has. So nothing here is believed, only looked at: a remembered entry whose stamps are in place is a hit
without a call, and every other is forgotten.

Source: design, section 3 (expander), invariants I3, I5; docs/decisions/0020-remembered-entries.md.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from relaygr.domain.identity import PsiKey, UserKey
from relaygr.segment import MappedSegment
from relaygr.v1 import expander_pb2

ENTRIES_MAX = 16_384


@dataclass(frozen=True, slots=True)
class Known:
    """An entry as its store or a lookup told it."""

    token_count: int
    chain_digest: bytes
    length_bytes: int
    producer_traceparent: str
    content_digest: bytes = field(repr=False)
    generation: int
    blocks: tuple[int, ...] = field(repr=False)

    @classmethod
    def told(cls, content: expander_pb2.EntryContent, generation: int, blocks: Sequence[int]) -> Known:
        """From what the expander said of it, or was told."""
        return cls(
            token_count=content.token_count,
            chain_digest=content.chain_digest,
            length_bytes=content.length_bytes,
            producer_traceparent=content.producer_traceparent,
            content_digest=content.content_digest,
            generation=generation,
            blocks=tuple(blocks),
        )


class KnownEntries:
    """Bounded by entries, and by as many blocks as the segment has; what was used longest ago goes first.

    Args:
        entries_max: remembered at once.
    """

    def __init__(self, entries_max: int = ENTRIES_MAX):
        self._entries_max = entries_max
        self._segment: MappedSegment | None = None
        self._entries: OrderedDict[PsiKey, Known] = OrderedDict()
        self._by_owner: dict[UserKey, set[PsiKey]] = {}
        self._blocks = 0

    def __len__(self) -> int:
        return len(self._entries)

    def learn(self, segment: MappedSegment, key: PsiKey, known: Known) -> None:
        """Remember an entry of this segment, in place of the key's former one."""
        self._of(segment)
        self.drop(key)
        self._entries[key] = known
        self._by_owner.setdefault(key.owner, set()).add(key)
        self._blocks += len(known.blocks)
        while len(self._entries) > self._entries_max or self._blocks > segment.geometry.block_count:
            self.drop(next(iter(self._entries)))

    def find(self, segment: MappedSegment, key: PsiKey) -> Known | None:
        """The key's entry, if its stamps are in place at this moment."""
        self._of(segment)
        known = self._entries.get(key)
        if known is None:
            return None
        if not segment.owns(known.blocks, known.generation):
            self.drop(key)
            return None
        self._entries.move_to_end(key)
        return known

    def drop(self, key: PsiKey) -> None:
        """Remember it no more; repeatable."""
        known = self._entries.pop(key, None)
        if known is None:
            return
        self._blocks -= len(known.blocks)
        keys = self._by_owner[key.owner]
        keys.remove(key)
        if not keys:
            del self._by_owner[key.owner]

    def forget(self, owner: UserKey) -> None:
        """Remember nothing of a user any more."""
        for key in tuple(self._by_owner.get(owner, ())):
            self.drop(key)

    def check(self) -> None:
        """Assert that the tables agree and the bounds hold."""
        assert {key for keys in self._by_owner.values() for key in keys} == set(self._entries)
        assert all(keys for keys in self._by_owner.values())
        assert self._blocks == sum(len(known.blocks) for known in self._entries.values())
        assert len(self._entries) <= self._entries_max

    def _of(self, segment: MappedSegment) -> None:
        """Generations are counted anew in every segment: what is known of another one says nothing."""
        if segment is not self._segment:
            self._segment = segment
            self._entries.clear()
            self._by_owner.clear()
            self._blocks = 0
