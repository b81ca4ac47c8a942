"""The psi that are here: what each covers, who holds it, and where it is in its life.

Of all histories that touch an entry (its content, what is being produced, what its
tickets asked for) one is always a prefix of the other; `chain` is the longest that
matters. Histories that do not agree never share an entry at the same time.

Source: design, section 3 (ranker), invariants I1, I4.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from relaygr.domain.chain import Chain
from relaygr.domain.identity import PsiKey, UserKey
from services.ranker.core.lifecycle import HAS_JOB, Cause, PsiState, assert_allowed


@dataclass(slots=True, eq=False)
class Entry:
    """One psi."""

    entry_id: int
    key: PsiKey
    chain: Chain
    """At least `reach_tokens` long."""
    goal_tokens: int
    """What somebody waits for; equal to `tokens` when nothing is pending."""
    asked_trace: str
    """Of the ask that set the goal."""
    job_trace: str = ""
    """Of the ask that the job works for."""
    producer_trace: str = ""
    """Of the ask that brought the last complete tokens."""
    tokens: int = 0
    """Complete: may be read."""
    page_ids: list[int] = field(default_factory=list)
    """Token i lies in page_ids[i // PAGE_TOKENS]; reserved up to the goal."""
    state: PsiState = PsiState.ABSENT
    job_id: int | None = None
    """The one job that may write to the pages."""
    target_tokens: int = 0
    """Where that job's copy or compute ends; 0 while it looks up, or without a job."""
    is_reloaded: bool = False
    """The production under way took tokens from DRAM."""
    reload_by_ns: int | None = None
    """When its lookup or reload is given up."""
    is_reload_overdue: bool = False
    """It was."""
    promoted_ns: int | None = None
    """Deadline that the job was lent."""
    promoted_due_ns: int | None = None
    tickets: dict[str, None] = field(default_factory=dict)
    joiners: dict[int, None] = field(default_factory=dict)
    """Ranks that wait."""
    leases: dict[int, int] = field(default_factory=dict)
    """Rank to leased tokens: ranks that may be reading."""
    spilling_tokens: int = 0
    """A copy to DRAM of so many tokens is in flight."""
    stored_tokens: int = 0
    """So many are in DRAM."""
    tried_tokens: int = 0
    """So many it had when it was last to be copied there; what failed is tried again once it has grown."""
    is_spill_due: bool = False
    uses: int = 0
    """Ranks that it served."""
    is_idle: bool = False
    """Listed with the eviction policy."""

    @property
    def promised_tokens(self) -> int:
        """How far the pending work will get if nothing fails."""
        return max(self.goal_tokens, self.target_tokens) if self.state in HAS_JOB else self.goal_tokens

    @property
    def reach_tokens(self) -> int:
        """How far the content may come to reach: histories must agree up to here."""
        return max(self.tokens, self.goal_tokens, self.target_tokens)

    @property
    def is_held(self) -> bool:
        """True when it must not be evicted (I1)."""
        return bool(self.state != PsiState.RESIDENT or self.tickets or self.joiners or self.leases)

    @property
    def is_pending(self) -> bool:
        """True when more tokens are on their way."""
        return self.promised_tokens > self.tokens

    def move(self, target: PsiState, cause: Cause) -> None:
        """Change state, as the table allows."""
        assert_allowed(self.state, cause, target)
        self.state = target


class EntryTable:
    """All entries, by id, by key and by job. Leaving entries have no key any more."""

    def __init__(self, entries_max: int):
        self.entries_max = entries_max
        self.by_id: dict[int, Entry] = {}
        self.by_key: dict[PsiKey, Entry] = {}
        self.by_job: dict[int, Entry] = {}
        self.leaving: dict[UserKey, int] = {}
        """Leaving entries of an owner."""
        self._entries_made = 0
        self._jobs_made = 0

    @property
    def is_full(self) -> bool:
        """True when no entry can be added."""
        return len(self.by_id) >= self.entries_max

    @property
    def resting_count(self) -> int:
        """Matched entries without a job: resident or spilling. Counted over the jobs, which are few."""
        return len(self.by_key) - sum(entry.state != PsiState.LEAVING for entry in self.by_job.values())

    def add(self, key: PsiKey, chain: Chain, asked_trace: str) -> Entry:
        """A new entry, empty, with the whole chain as its goal."""
        assert not self.is_full and key not in self.by_key
        self._entries_made += 1
        entry = Entry(self._entries_made, key, chain, chain.token_count, asked_trace)
        self.by_id[entry.entry_id] = entry
        self.by_key[key] = entry
        return entry

    def draw_job(self, entry: Entry) -> int:
        """Give an entry its next job."""
        assert entry.job_id is None
        self._jobs_made += 1
        entry.job_id = self._jobs_made
        self.by_job[self._jobs_made] = entry
        return self._jobs_made

    def end_job(self, entry: Entry) -> None:
        """The job's last report came; nothing writes to the pages any more."""
        assert entry.job_id is not None
        del self.by_job[entry.job_id]
        entry.job_id = None
        entry.target_tokens = 0

    def leave(self, entry: Entry) -> None:
        """Match an entry no more."""
        entry.move(PsiState.LEAVING, Cause.FORGOTTEN)
        del self.by_key[entry.key]
        self.leaving[entry.key.owner] = self.leaving.get(entry.key.owner, 0) + 1

    def remove(self, entry: Entry, cause: Cause) -> None:
        """The entry ends."""
        if entry.state == PsiState.LEAVING:
            self.leaving[entry.key.owner] -= 1
            if not self.leaving[entry.key.owner]:
                del self.leaving[entry.key.owner]
        else:
            del self.by_key[entry.key]
        entry.move(PsiState.ABSENT, cause)
        del self.by_id[entry.entry_id]
