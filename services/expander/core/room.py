"""Whom a store would push out: its own ranker's and tenant's entries first, as far as their shares ask for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from services.expander.core.blocks import Holder
from services.expander.core.entries import Entries, Entry


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be freed; nothing where a number is not positive."""

    blocks: int
    entries: int
    of_holder: Mapping[Holder, int]
    """Blocks, of those counted to a ranker or a tenant that would be over its share; looked at in this order."""


def victims_for(wanted: Wanted, entries: Entries) -> list[Entry] | None:
    """Idle entries whose eviction is enough, least recently used first within each reason; None when none are.

    Nothing is evicted here.
    """
    if wanted.blocks > entries.idle_blocks:
        return None
    chosen: dict[int, Entry] = {}
    for holder, blocks in wanted.of_holder.items():
        left = blocks - sum(len(entry.blocks) for entry in chosen.values() if holder in entry.holders)
        if not _choose(chosen, entries, holder, left, 0):
            return None
    left = wanted.blocks - sum(len(entry.blocks) for entry in chosen.values())
    if not _choose(chosen, entries, None, left, wanted.entries - len(chosen)):
        return None
    return list(chosen.values())


def _choose(chosen: dict[int, Entry], entries: Entries, holder: Holder | None, blocks: int, count: int) -> bool:
    """Choose more, until so many blocks and so many entries are; False when there are not enough."""
    if blocks <= 0 and count <= 0:
        return True
    for entry in entries.idle(holder):
        if entry.generation in chosen:
            continue
        chosen[entry.generation] = entry
        blocks -= len(entry.blocks)
        count -= 1
        if blocks <= 0 and count <= 0:
            return True
    return False
