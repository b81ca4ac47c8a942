"""What the residency machine counts since boot. Names are fixed, so that a reader can rely on them."""

from __future__ import annotations

from services.ranker.core.effects import Acceptance, DeclineReason, FallbackReason, Tier

RACE_COUNTERS = (
    "race_report_unexpected",
    "race_rank_unknown",
    "race_spill_unexpected",
)
"""Each counts something that cannot happen while engine and machine keep their contract. Must stay zero."""

_PLAIN_COUNTERS = (
    "rank_with_ticket",
    "rank_with_ticket_hit",
    "rank_with_ticket_lost",
    "rank_partial",
    "rank_waited",
    "rank_overtook",
    "ranks_untracked",
    "lookups",
    "lookup_hits",
    "lookups_unusable",
    "reloads_failed",
    "reloads_overdue",
    "productions_failed",
    "productions_cancelled",
    "appends_put_off",
    "tickets_consumed",
    "tickets_released",
    "tickets_forgotten",
    "windows_closed",
    "evicted_space",
    "evicted_unspilled",
    "dropped_diverged",
    "dropped_unwanted",
    "dropped_forgotten",
    "spills_started",
    "spills_stored",
    "spills_failed",
    "tombstones_dropped",
)


class Counters:
    """Named counts. Counting under an unknown name is a bug."""

    def __init__(self) -> None:
        names = (
            *(f"accepted_{how.value.lower()}" for how in Acceptance),
            *(f"declined_{reason.value.lower()}" for reason in DeclineReason),
            *(f"rank_{tier.value.lower()}" for tier in Tier),
            *(f"full_{reason.value.lower()}" for reason in FallbackReason),
            *_PLAIN_COUNTERS,
            *RACE_COUNTERS,
        )
        self._counts = dict.fromkeys(names, 0)

    def add(self, name: str) -> None:
        """Count one."""
        self._counts[name] += 1

    def __getitem__(self, name: str) -> int:
        return self._counts[name]

    def copy(self) -> dict[str, int]:
        """All of them, in a fixed order."""
        return dict(self._counts)
