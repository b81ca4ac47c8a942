"""The slot table: which instance owns which share of the users, and who is next.

A table is a plan from the previous table, not a function of the members alone: hashing
alone spreads slots by luck (a joiner among 50 gets 20 slots give or take 4 or 5), while
a plan gives each instance its share by budget and moves nothing else. Ties are broken by
weighted rendezvous hashing, so that the plan is the same whoever makes it, and the same
hashing orders the other instances behind a slot's owner.

Source: design, section 3 (router): joins and leaves move about 1/N of the users.
"""

from __future__ import annotations

import bisect
import hashlib
import heapq
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from relaygr.domain.instance import ID_BYTES_MAX
from relaygr.domain.slots import SLOTS

TABLE_BYTES_MAX = 256 * 1024
INSTANCES_MAX = 1024


class InvalidTable(ValueError):
    """A registry value that is not a slot table."""


@dataclass(frozen=True, slots=True)
class SlotTable:
    """Owner of each slot for one model."""

    version: int
    """Counts the tables written, from 1."""
    owners: tuple[str, ...]
    """Instance id by slot, SLOTS of them."""

    def to_json(self) -> str:
        """The registry's value: ids once, then an index per slot."""
        ids = sorted(set(self.owners))
        index = {instance_id: position for position, instance_id in enumerate(ids)}
        value = {"version": self.version, "instances": ids, "slots": [index[owner] for owner in self.owners]}
        return json.dumps(value, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> SlotTable:
        """Parse and validate a registry value.

        Raises:
            InvalidTable: says what is wrong.
        """
        if len(text) > TABLE_BYTES_MAX:
            raise InvalidTable(f"table of {len(text)} bytes, at most {TABLE_BYTES_MAX}")
        try:
            raw = json.loads(text)
            version, ids, slots = raw["version"], raw["instances"], raw["slots"]
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise InvalidTable(f"{type(error).__name__}: {error}") from error
        if not _is_whole(version) or version < 1:
            raise InvalidTable("version must be a whole number of at least 1")
        if not isinstance(ids, list) or not 0 < len(ids) <= INSTANCES_MAX or not all(map(_is_id, ids)):
            raise InvalidTable("instances must be a list of short strings")
        if len(set(ids)) != len(ids):
            raise InvalidTable("an instance is named twice")
        if not isinstance(slots, list) or len(slots) != SLOTS:
            raise InvalidTable(f"slots must be a list of {SLOTS}")
        if not all(_is_whole(slot) and 0 <= slot < len(ids) for slot in slots):
            raise InvalidTable("a slot names no instance")
        return cls(version, tuple(ids[slot] for slot in slots))


def next_table(current: SlotTable | None, weights: Mapping[str, int]) -> SlotTable | None:
    """The table that should follow `current`, or None when nothing should change."""
    if not weights:
        return None
    owners = assign(current.owners if current else None, weights)
    if current is None:
        return SlotTable(1, owners)
    return None if owners == current.owners else SlotTable(current.version + 1, owners)


def assign(previous: tuple[str, ...] | None, weights: Mapping[str, int]) -> tuple[str, ...]:
    """Owners by weight, moving as few slots as possible.

    A leaver's slots go to those furthest below their share, and nothing else moves. A
    joiner (or one whose share more than doubled) takes its share, rounded down, from
    those furthest above theirs. Nobody keeps more than its share, rounded up.

    Args:
        previous: the owners before, or None.
        weights: device budget by instance id, at least one; all zero means all equal.
    """
    assert weights
    shares = _shares(weights)
    held: dict[str, list[int]] = {instance_id: [] for instance_id in sorted(weights)}
    orphans: list[int] = []
    for slot in range(SLOTS):
        owner = previous[slot] if previous else None
        if owner in held and len(held[owner]) < math.ceil(shares[owner]):
            held[owner].append(slot)
        else:
            orphans.append(slot)
    scores = Scores(weights)
    furthest = _Furthest({each: shares[each] - len(slots) for each, slots in held.items()})
    for slot in orphans:
        # The tie between equally deserving ones is the slot's own, so that neighbours spread.
        taker = scores.first_of(slot, furthest.all())
        held[taker].append(slot)
        furthest.move(taker, shares[taker] - len(held[taker]))
    settled = set(previous or ())
    joiners = [each for each in held if each not in settled or len(held[each]) < shares[each] / 2 - 1]
    if joiners:
        _top_up(joiners, held, shares, scores)
    owners = [""] * SLOTS
    for instance_id, slots in held.items():
        for slot in slots:
            owners[slot] = instance_id
    return tuple(owners)


def ring_order(slot: int, weights: Mapping[str, int]) -> tuple[str, ...]:
    """Every instance in the order in which it is tried for a slot, after the slot's owner.

    Each slot has an order of its own, so a lost or overloaded instance's users spread over
    all the others; an instance that joins or leaves changes nothing in the others' order.
    """
    of = Scores(weights).of_slot(slot)
    return tuple(sorted(weights, key=lambda each: (-of(each), each)))


def _top_up(joiners: list[str], held: dict[str, list[int]], shares: Mapping[str, float], scores: Scores) -> None:
    """Give each joiner its share, from those furthest above theirs."""
    above = _Furthest({each: len(held[each]) - shares[each] for each in held})
    for joiner in joiners:
        wish: dict[int, float] = {}
        while len(held[joiner]) < math.floor(shares[joiner]):
            giver = above.all()[-1]
            if giver == joiner or len(held[giver]) <= shares[giver] - 1:
                break
            wish.update((each, scores.of(each, joiner)) for each in held[giver] if each not in wish)
            slot = max(held[giver], key=wish.__getitem__)
            held[giver].remove(slot)
            held[joiner].append(slot)
            for each in (giver, joiner):
                above.move(each, len(held[each]) - shares[each])


def _shares(weights: Mapping[str, int]) -> dict[str, float]:
    total = sum(weights.values())
    if total <= 0:
        return {instance_id: SLOTS / len(weights) for instance_id in weights}
    return {instance_id: SLOTS * weight / total for instance_id, weight in weights.items()}


class _Furthest:
    """Instances by a number that changes, those with the largest first: thousands of them, looked at for each slot."""

    def __init__(self, numbers: Mapping[str, float]) -> None:
        self._numbers = dict(numbers)
        self._groups: dict[float, list[str]] = {}
        for each in sorted(numbers):
            self._groups.setdefault(numbers[each], []).append(each)
        self._order = [-number for number in self._groups]
        heapq.heapify(self._order)

    def all(self) -> list[str]:
        """Those with the largest number, in the order of their ids; at least one."""
        while -self._order[0] not in self._groups:
            heapq.heappop(self._order)
        return self._groups[-self._order[0]]

    def move(self, instance_id: str, number: float) -> None:
        """Another number for one of them."""
        before = self._numbers[instance_id]
        self._numbers[instance_id] = number
        group = self._groups[before]
        group.remove(instance_id)
        if not group:
            del self._groups[before]
        if number not in self._groups:
            self._groups[number] = []
            heapq.heappush(self._order, -number)
        bisect.insort(self._groups[number], instance_id)


class Scores:
    """Weighted rendezvous scores: w / -ln(u), u a hash of slot and instance in (0, 1)."""

    def __init__(self, weights: Mapping[str, int]) -> None:
        self.are_equal = sum(weights.values()) <= 0
        """True when all weigh nothing, and so all the same."""
        self._weights = {each: 1 if self.are_equal else weight for each, weight in weights.items()}
        self._are_alike: bool | None = None
        """All of one weight; seen when it is asked for."""

    def of(self, slot: int, instance_id: str) -> float:
        """One instance's score for one slot; the larger, the sooner."""
        return self.of_slot(slot)(instance_id)

    def first_of(self, slot: int, ids: Sequence[str]) -> str:
        """The one with the largest score for a slot; of equals, the first."""
        if len({self._weights[each] for each in ids}) > 1:
            return max(ids, key=self.of_slot(slot))
        # Of equal weight, the largest hash has the largest score: no logarithm for half a million of them.
        start = hashlib.blake2b(f"{slot}\x00".encode(), digest_size=8)
        best, largest = ids[0], -1
        for each in ids:
            state = start.copy()
            state.update(each.encode())
            number = int.from_bytes(state.digest(), "little")
            if number > largest:
                best, largest = each, number
        return best

    def likely_first(self, slot: int, count: int) -> Collection[str]:
        """Those among whom the first few of a slot are: `count` of them where all weigh the same, else everybody."""
        if self._are_alike is None:
            self._are_alike = len(set(self._weights.values())) <= 1
        if not self._are_alike or len(self._weights) <= count:
            return self._weights
        start = hashlib.blake2b(f"{slot}\x00".encode(), digest_size=8)
        numbers = []
        for each in self._weights:
            state = start.copy()
            state.update(each.encode())
            numbers.append((state.digest()[::-1], each))
        # As bytes, the last first, they are in the order of the numbers.
        numbers.sort(reverse=True)
        return [each for _, each in numbers[:count]]

    def of_slot(self, slot: int) -> Callable[[str], float]:
        """The scores for one slot: much quicker, where many are asked for."""
        start = hashlib.blake2b(f"{slot}\x00".encode(), digest_size=8)
        weights = self._weights

        def of(instance_id: str) -> float:
            state = start.copy()
            state.update(instance_id.encode())
            uniform = (int.from_bytes(state.digest(), "little") + 1) / (2**64 + 2)
            return weights[instance_id] / -math.log(uniform)

        return of


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value.encode()) <= 4 * ID_BYTES_MAX
