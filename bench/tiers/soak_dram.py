"""An expander in virtual time: the very core, what lies in its blocks, its lock file, and restarts.

Blocks hold whose page they are, so that a reader whose pin did not protect it, or a writer that woke up too late,
is noticed by the next load of these blocks.

Source: design, section 3 (expander), invariants I5, I7.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from bench.tiers.soak_time import Timeline
from relaygr.domain.identity import PsiKey
from services.expander.core.events import LockProbed
from services.expander.core.limits import TieringLimits
from services.expander.core.tiering import Tiering


class Present:
    """Keys that can be found, counted; stands for the segment's filter and is held to the core's calls."""

    def __init__(self) -> None:
        self._keys: Counter[PsiKey] = Counter()

    def __contains__(self, key: PsiKey) -> bool:
        return key in self._keys

    @property
    def count(self) -> int:
        """Entries that can be found."""
        return self._keys.total()

    def add(self, key: PsiKey) -> None:
        """One entry more."""
        self._keys[key] += 1

    def remove(self, key: PsiKey) -> None:
        """One entry less."""
        self._keys[key] -= 1
        assert self._keys[key] >= 0, "an entry went that never came"
        if not self._keys[key]:
            del self._keys[key]


@dataclass(slots=True, eq=False)
class Attachment:
    """A ranker's, of one boot and one owner index; ends once."""

    boot: int
    index: int
    is_ended: bool = False
    copies: int = 0
    """Under way; the lock is let go after the last."""


class SoakExpander:
    """Down until started.

    Args:
        timeline: whose time it lives in.
        limits: of its core.
    """

    def __init__(self, timeline: Timeline, limits: TieringLimits) -> None:
        self._timeline = timeline
        self.limits = limits
        self.core: Tiering | None = None
        self.boot = 0
        self.present = Present()
        self.locks: dict[int, str] = {}
        """By owner index, who holds the byte: a process that runs, or is stopped."""
        self.blocks: dict[int, tuple[PsiKey, int]] = {}
        """Whose block lies there, and which of the entry's."""
        self.counters: Counter[str] = Counter()
        """Of all boots that have ended."""

    def start(self) -> None:
        """A new boot: nothing of an earlier one is left."""
        assert self.core is None
        self.boot += 1
        self.present, self.locks, self.blocks = Present(), {}, {}
        self.core = Tiering(self.limits, self.present)
        self._sweep_later(self.boot)

    def kill(self) -> None:
        """From now on nothing answers."""
        assert self.core is not None
        self.counters.update(self.core.counters)
        self.core = None

    def current(self, owner: str, attachment: Attachment) -> Tiering | None:
        """The core, when the caller may call it under this attachment."""
        if self.core is None or attachment.boot != self.boot:
            return None
        is_attached = self.core.is_attached(owner, attachment.index, self._timeline.now_ns)
        return self.core if is_attached else None

    def write(self, boot: int, blocks: tuple[int, ...], key: PsiKey) -> None:
        """A writer's bytes land, whether it may still write or not; those of another boot land elsewhere."""
        if boot == self.boot:
            self.blocks.update((block, (key, place)) for place, block in enumerate(blocks))

    def holds(self, blocks: tuple[int, ...], key: PsiKey) -> bool:
        """True when these blocks hold a key's entry, whole and in order."""
        return all(self.blocks.get(block) == (key, place) for place, block in enumerate(blocks))

    def counted(self) -> Counter[str]:
        """Counters of all boots."""
        return self.counters + (Counter() if self.core is None else self.core.counters)

    def check(self) -> None:
        """The core's invariants, and that the filter has as many keys as there are entries."""
        if self.core is not None:
            self.core.check()
            assert self.present.count == self.core.occupancy().entries, "the filter does not agree with the index"

    def _sweep_later(self, boot: int) -> None:
        self._timeline.after(self.limits.probe_ns, lambda: self._sweep(boot))

    def _sweep(self, boot: int) -> None:
        """What the sweeper does in production."""
        if self.core is None or boot != self.boot:
            return
        now_ns = self._timeline.now_ns
        for probe in self.core.expire(now_ns):
            self.core.handle(LockProbed(probe.owner_index, probe.owner_index in self.locks), now_ns)
        self.core.check_sums()
        self._sweep_later(boot)
