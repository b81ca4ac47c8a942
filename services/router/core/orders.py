"""In which order the instances of a model are tried for a slot: the first few of each, and the rest on demand.

Theory of operation. A choice nearly always ends among the first two or three, so eight a slot are kept and no
more: whole orders of a thousand instances would be a million names. Who asks on gets the slot's whole order,
worked out for this once. A joiner is put into the orders it belongs to and a leaver taken out, since neither
changes the others' order: a change of the instances costs one hash a slot, not one a slot and instance.

Source: design, section 3 (router).
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Iterator, Mapping

from relaygr.domain.slots import SLOTS
from services.router.core.slots import Scores, ring_order

KEPT = 8
"""Of each slot's order."""
RENEWED_SHARE = 4
"""When more than one in so many instances changed, the orders are forgotten instead of mended."""


class SlotOrders:
    """The orders of one model's slots."""

    def __init__(self) -> None:
        self._weights: dict[str, int] = {}
        self._scores = Scores({})
        self._firsts: dict[int, list[tuple[float, str]]] = {}
        """By slot: the first few as (-score, id), without a gap. Some were taken out, if they are less than KEPT."""

    def __len__(self) -> int:
        """Places kept, over all slots."""
        return sum(map(len, self._firsts.values()))

    def renew(self, weights: Mapping[str, int]) -> None:
        """Other instances, or other weights."""
        if weights == self._weights:
            return
        changed = [
            each for each in self._weights.keys() | weights.keys() if self._weights.get(each) != weights.get(each)
        ]
        before, self._weights = self._weights, dict(weights)
        had_equal, self._scores = self._scores.are_equal, Scores(weights)
        if had_equal != self._scores.are_equal or len(changed) * RENEWED_SHARE > len(weights):
            self._firsts.clear()
            return
        count = len(before)
        for each in changed:
            count -= each in before
            for slot, firsts in self._firsts.items():
                self._mend(slot, firsts, each, count)
            count += each in weights

    def walk(self, slot: int) -> Iterator[str]:
        """Every instance, in the order in which it is tried for a slot."""
        firsts = self._firsts.get(slot) or self._fill(slot)
        given = len(firsts)
        yield from [each for _, each in firsts]
        if given < len(self._weights):
            self._fill(slot)  # The next who asks finds as many as possible again.
            yield from ring_order(slot, self._weights)[given:]

    def check(self) -> None:
        """Assert what is cheap to see; that it is how each order begins, a property test holds."""
        assert len(self._firsts) <= SLOTS
        for firsts in self._firsts.values():
            assert len(firsts) <= KEPT
            assert firsts == sorted(firsts)
            assert all(each in self._weights for _, each in firsts)

    def _fill(self, slot: int) -> list[tuple[float, str]]:
        of = self._scores.of_slot(slot)
        likely = self._scores.likely_first(slot, 2 * KEPT)
        firsts = heapq.nsmallest(KEPT, ((-of(each), each) for each in likely))
        self._firsts[slot] = firsts
        return firsts

    def _mend(self, slot: int, firsts: list[tuple[float, str]], changed: str, others: int) -> None:
        """Take an instance out of an order that has so many others, and put it in again if it is still there."""
        if any(each == changed for _, each in firsts):
            firsts[:] = [(score, each) for score, each in firsts if each != changed]
        if changed not in self._weights:
            return
        place = (-self._scores.of(slot, changed), changed)
        # Behind the last of a list that is not whole, there may be others before it.
        if len(firsts) == others or (firsts and place < firsts[-1]):
            bisect.insort(firsts, place)
            del firsts[KEPT:]
