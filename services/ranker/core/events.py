"""What happens to the residency machine. Past tense: each has already happened.

Job ids and entry ids are drawn by the machine and come back here in the engine's
reports; rank ids and ticket ids are the caller's.
"""

from __future__ import annotations

from dataclasses import dataclass

from relaygr.domain.chain import Chain
from relaygr.domain.identity import PsiKey, UserKey


@dataclass(frozen=True, slots=True)
class PreInferAsked:
    """A ticket asks that psi of the whole chain be there until its window closes."""

    ticket_id: str
    key: PsiKey
    chain: Chain
    window_end_ns: int
    producer_trace: str
    """W3C traceparent of the span that asked; kept with what it produces."""


@dataclass(frozen=True, slots=True)
class RankAsked:
    """A rank asks where its prefix is. Answered by exactly one RankOnPsi or RankInFull, maybe later."""

    rank_id: int
    key: PsiKey
    chain: Chain
    ticket_id: str | None
    deadline_ns: int
    suffix_tokens: int
    """Delta and candidate tokens that follow the prefix; sizes the cost of ranking."""
    due_ns: int | None = None
    """By when it would be within its ranking budget; what cannot be goes behind what can."""


@dataclass(frozen=True, slots=True)
class LookupEnded:
    """The DRAM tier has answered a StartLookup."""

    job_id: int
    tokens: int
    """Tokens found there; 0 when there is nothing."""
    digest: bytes
    """Chained digest of the tokens found."""


@dataclass(frozen=True, slots=True)
class ReloadEnded:
    """A StartReload has ended; nothing writes to its pages any more."""

    job_id: int
    ok: bool


@dataclass(frozen=True, slots=True)
class ChunkEnded:
    """A chunk of a StartCompute has ended: psi now covers `tokens`.

    The one that reaches the target is the job's last report.
    """

    job_id: int
    tokens: int


@dataclass(frozen=True, slots=True)
class ProductionFailed:
    """A lookup, reload or compute ended early, cancelled or failed; nothing writes to its pages any more."""

    job_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class RankEnded:
    """The compute of a rank has ended, well or not: its lease ends, its ticket is consumed."""

    rank_id: int


@dataclass(frozen=True, slots=True)
class RankAbandoned:
    """The caller of a rank went away before its compute began."""

    rank_id: int


@dataclass(frozen=True, slots=True)
class SpillEnded:
    """The copy of an entry to the DRAM tier has ended; nothing reads its pages for it any more."""

    entry_id: int
    stored: bool


@dataclass(frozen=True, slots=True)
class TicketReleased:
    """A ticket's request was abandoned: its reservation ends."""

    ticket_id: str


@dataclass(frozen=True, slots=True)
class UserForgotten:
    """A user asked to be forgotten."""

    owner: UserKey


@dataclass(frozen=True, slots=True)
class DrainSet:
    """The instance was told to drain, or to take pre-infers again."""

    draining: bool


@dataclass(frozen=True, slots=True)
class DramAttached:
    """The DRAM tier became reachable, or was lost."""

    attached: bool


Event = (
    PreInferAsked
    | RankAsked
    | LookupEnded
    | ReloadEnded
    | ChunkEnded
    | ProductionFailed
    | RankEnded
    | RankAbandoned
    | SpillEnded
    | TicketReleased
    | UserForgotten
    | DrainSet
    | DramAttached
)
