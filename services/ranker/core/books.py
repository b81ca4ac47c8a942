"""The state that the parts of the residency machine share, and the effects of the event at hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from relaygr.domain.chain import Chain
from relaygr.domain.cost import CostModel
from relaygr.domain.identity import PsiKey, UserKey
from services.ranker.core.alarms import Alarms
from services.ranker.core.counters import Counters
from services.ranker.core.effects import Effect
from services.ranker.core.entries import EntryTable
from services.ranker.core.eviction import EvictionPolicy
from services.ranker.core.pages import PageAllocator
from services.ranker.core.tickets import TicketBook


class AlarmKind(Enum):
    """First part of an alarm's name; the second is an id."""

    WINDOW = "window"
    WAIT = "wait"
    TOMBSTONE = "tombstone"
    RELOAD = "reload"


class RankState(Enum):
    """What became of a rank's question."""

    ASKED = "asked"
    WAITING = "waiting"
    LEASED = "leased"
    FULL = "full"


@dataclass(slots=True, eq=False)
class Rank:
    """A rank between RankAsked and RankEnded or RankAbandoned."""

    rank_id: int
    key: PsiKey
    chain: Chain
    ticket_id: str | None
    deadline_ns: int
    suffix_tokens: int
    asked_ns: int
    due_ns: int | None
    state: RankState = RankState.ASKED
    entry_id: int | None = None
    """The entry waited for or leased."""
    need_tokens: int = 0
    """How many of the entry's tokens, at most, it waits for; it agrees with the entry up to there."""


@dataclass(slots=True, eq=False)
class Books:
    """Tables, each bounded, and what is to be done."""

    pages: PageAllocator
    entries: EntryTable
    tickets: TicketBook
    policy: EvictionPolicy
    cost: CostModel
    ranks_max: int
    spills_max: int
    tombstones_max: int
    tombstone_ns: int
    rest_tokens: int
    """Psi that misses fewer of a history is used as it is; 0: never."""
    reload_worth_ns: int
    """A reload of up to this is waited for, also when computing were quicker."""
    alarms: Alarms = field(default_factory=Alarms)
    counters: Counters = field(default_factory=Counters)
    ranks: dict[int, Rank] = field(default_factory=dict)
    untracked_ranks: int = 0
    """Answered in full beside a full table; their ends are expected."""
    spills: dict[int, None] = field(default_factory=dict)
    """Entries being copied to DRAM."""
    spill_queue: dict[int, None] = field(default_factory=dict)
    """Resident entries that wait to be copied."""
    tombstones: dict[UserKey, int] = field(default_factory=dict)
    """Forgotten users, and until when."""
    is_dram_attached: bool = False
    is_dram_remote: bool = False
    """It is another host's: no rank waits for it."""
    is_draining: bool = False
    effects: list[Effect] = field(default_factory=list)

    def emit(self, effect: Effect) -> None:
        """Have something done."""
        self.effects.append(effect)

    def take_effects(self) -> list[Effect]:
        """The effects of the event at hand."""
        effects, self.effects = self.effects, []
        return effects

    def is_forgotten(self, owner: UserKey) -> bool:
        """True while a user's tombstone stands or the last of what was forgotten is still leaving."""
        return owner in self.tombstones or owner in self.entries.leaving
