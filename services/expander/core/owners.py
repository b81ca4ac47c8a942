"""Who is attached, and which byte of the lock file stands for whom.

    FREE ──attach──► ATTACHED ──lapsed, replaced or overdue──► RETIRED ──its byte was let go──► FREE

A retired index never comes back to life: an owner that was only stopped, and heartbeats
again, is given a new index. Whatever the old one was granted stays in quarantine until the
kernel says that its byte is free, since until then its process may still write.

Source: design, section 3 (expander), invariant I7.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


class SlotState(Enum):
    """Of one owner index."""

    FREE = auto()
    ATTACHED = auto()
    RETIRED = auto()


@dataclass(slots=True)
class Slot:
    """One owner index."""

    index: int
    state: SlotState = SlotState.FREE
    owner: str = ""
    epoch: int = 0
    due_ns: int = 0
    """ATTACHED: when it lapses. RETIRED: when its lock is looked at next."""


class Owners:
    """A fixed number of owner indexes."""

    def __init__(self, slots_max: int, lapse_ns: int, probe_ns: int):
        self._slots = [Slot(index) for index in range(slots_max)]
        # Oldest first: an index that was just let go is given out last.
        self._free = {index: None for index in range(slots_max)}
        self._by_owner: dict[str, Slot] = {}
        self._retired: dict[int, Slot] = {}
        self._lapse_ns = lapse_ns
        self._probe_ns = probe_ns

    def __len__(self) -> int:
        return len(self._by_owner)

    @property
    def attached(self) -> tuple[str, ...]:
        """Names of attached owners."""
        return tuple(self._by_owner)

    def current(self, owner: str) -> Slot | None:
        """The attached slot of an owner."""
        return self._by_owner.get(owner)

    def is_attached(self, owner: str, index: int) -> bool:
        """True when this owner's current index is this one."""
        slot = self._by_owner.get(owner)
        return slot is not None and slot.index == index

    def is_index_attached(self, index: int) -> bool:
        """True when the index stands for an attached owner."""
        return self._slots[index].state is SlotState.ATTACHED

    def is_index_free(self, index: int) -> bool:
        """True when the index stands for nobody."""
        return self._slots[index].state is SlotState.FREE

    def renew(self, slot: Slot, now_ns: int) -> None:
        """A heartbeat."""
        assert slot.state is SlotState.ATTACHED
        slot.due_ns = now_ns + self._lapse_ns
        # Renewed last is listed last, so the first one listed lapses first.
        del self._by_owner[slot.owner]
        self._by_owner[slot.owner] = slot

    def attach(self, owner: str, epoch: int, now_ns: int) -> Slot | None:
        """A new index for an owner that has none, or None when all are taken."""
        assert owner not in self._by_owner
        if not self._free:
            return None
        slot = self._slots[next(iter(self._free))]
        del self._free[slot.index]
        slot.state, slot.owner, slot.epoch = SlotState.ATTACHED, owner, epoch
        slot.due_ns = now_ns + self._lapse_ns
        self._by_owner[owner] = slot
        return slot

    def retire(self, slot: Slot, now_ns: int) -> None:
        """Begin to wait for the index's lock."""
        assert slot.state is SlotState.ATTACHED
        del self._by_owner[slot.owner]
        slot.state, slot.due_ns = SlotState.RETIRED, now_ns
        self._retired[slot.index] = slot

    def lapsed(self, now_ns: int) -> Slot | None:
        """An attached owner that was silent for too long, or None."""
        slot = next(iter(self._by_owner.values()), None)
        return slot if slot is not None and slot.due_ns <= now_ns else None

    def probes_due(self, now_ns: int) -> tuple[int, ...]:
        """Retired indexes whose locks are to be looked at now."""
        due = tuple(slot.index for slot in self._retired.values() if slot.due_ns <= now_ns)
        for index in due:
            self._retired[index].due_ns = now_ns + self._probe_ns
        return due

    def let_go(self, index: int) -> bool:
        """The lock is free: so is the index. False when it was not retired."""
        slot = self._retired.pop(index, None)
        if slot is None:
            return False
        slot.state, slot.owner, slot.epoch = SlotState.FREE, "", 0
        self._free[index] = None
        return True

    def deadline_ns(self) -> int | None:
        """When the first owner lapses or a lock is looked at."""
        attached = next(iter(self._by_owner.values()), None)
        dues = [slot.due_ns for slot in self._retired.values()]
        if attached is not None:
            dues.append(attached.due_ns)
        return min(dues, default=None)

    def check(self) -> None:
        """Assert that every index is in one state and one table."""
        for slot in self._slots:
            tables = (slot.index in self._free, self._by_owner.get(slot.owner) is slot, slot.index in self._retired)
            states = tuple(slot.state is state for state in (SlotState.FREE, SlotState.ATTACHED, SlotState.RETIRED))
            assert tables == states, f"owner index {slot.index} is in the wrong table"
        dues = [slot.due_ns for slot in self._by_owner.values()]
        assert dues == sorted(dues), "heartbeats out of order"
