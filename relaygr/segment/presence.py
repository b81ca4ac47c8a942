"""Whether a key may have an entry, told by one byte: what spares rankers most of their lookups.

A table of saturating 8-bit counters, indexed by a hash of the whole key (tenant, user,
model, anchor). The owner of the segment counts a key in before its entry becomes visible
and out after it left; a replaced entry is counted in before its forerunner is counted out.
So, for a reader in another process:

* zero: no entry of this key is visible. A reader that races with the owner may see the zero
  of a moment ago, and takes a fresh entry for a miss; it never gets wrong bytes for it.
  Who was told that a store was published sees its counter;
* anything else: ask. Another key may share the slot, and the entry may just have left.

A counter that reached 255 has lost count and stays there until the next boot: a slot that
always asks. So has one that is zero when an entry leaves, which only damage can bring about.

Source: design, section 3 (expander); docs/decisions/0008-presence-filter.md.
"""

from __future__ import annotations

import numpy as np
import xxhash
from numpy.typing import NDArray

from relaygr.domain.identity import PsiKey
from relaygr.segment.identity import identity_bytes

COUNTER_MAX = 255


class PresenceFilter:
    """A view of the counters, which are all zero in a new segment.

    Args:
        counters: a power of two of them; read-only on a ranker's side.
    """

    def __init__(self, counters: NDArray[np.uint8]):
        assert len(counters) > 0 and len(counters) & (len(counters) - 1) == 0, "slots: a power of two"
        self._counters = counters

    def may_hold(self, key: PsiKey) -> bool:
        """False when no entry of this key is visible; True when it is worth asking."""
        return bool(self._counters[self._slot_of(key)])

    def add(self, key: PsiKey) -> None:
        """Count an entry in, before it becomes visible."""
        slot = self._slot_of(key)
        if self._counters[slot] < COUNTER_MAX:
            self._counters[slot] += 1

    def remove(self, key: PsiKey) -> None:
        """Count an entry out that was counted in, after it left."""
        slot = self._slot_of(key)
        if self._counters[slot] == 0:
            # Who counts in before counting out cannot get here: the shared memory was damaged.
            self._counters[slot] = COUNTER_MAX
        elif self._counters[slot] < COUNTER_MAX:
            self._counters[slot] -= 1

    def detach(self) -> None:
        """Let the segment's memory go; goes on with a copy of its own."""
        self._counters = self._counters.copy()

    def _slot_of(self, key: PsiKey) -> int:
        return xxhash.xxh3_64_intdigest(identity_bytes(key, b"")) & (len(self._counters) - 1)
