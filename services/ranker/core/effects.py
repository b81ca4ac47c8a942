"""What the residency machine wants done. Imperative; the engine performs, the machine decides."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from relaygr.domain.chain import Chain
from relaygr.domain.identity import PsiKey, UserKey


class Acceptance(Enum):
    """How a pre-infer was accepted; names as in ranker.proto without prefix."""

    STARTED = "STARTED"
    RESIDENT = "RESIDENT"
    JOINED = "JOINED"


class DeclineReason(Enum):
    """Why a pre-infer was refused; names as in ranker.proto without prefix."""

    FOOTPRINT = "FOOTPRINT"
    EXPIRED = "EXPIRED"
    DRAINING = "DRAINING"
    FOREIGN_TICKET = "FOREIGN_TICKET"
    CUT_GONE = "CUT_GONE"
    FORGOTTEN = "FORGOTTEN"
    OVERLOADED = "OVERLOADED"
    DIVERGED = "DIVERGED"
    UNREACHABLE = "UNREACHABLE"


class Tier(Enum):
    """From where a rank takes its prefix; FULL is said by RankInFull."""

    DEVICE = "DEVICE"
    DRAM = "DRAM"
    JOINED = "JOINED"


class FallbackReason(Enum):
    """Why a rank runs in full; names as in ranker.proto without prefix."""

    NO_TICKET = "NO_TICKET"
    ABSENT = "ABSENT"
    FOREIGN_TICKET = "FOREIGN_TICKET"
    EXPIRED = "EXPIRED"
    DECLINED = "DECLINED"
    PRODUCTION_FAILED = "PRODUCTION_FAILED"
    DIGEST_MISMATCH = "DIGEST_MISMATCH"
    BYPASSED = "BYPASSED"
    FORGOTTEN = "FORGOTTEN"


@dataclass(frozen=True, slots=True)
class Accept:
    """Answer a PreInferAsked: its psi will be there, or is."""

    ticket_id: str
    how: Acceptance
    begins_tokens: int = 0
    """Of a started production: tokens that were complete, or on their way for somebody else."""


@dataclass(frozen=True, slots=True)
class Decline:
    """Answer a PreInferAsked: nothing is held for it."""

    ticket_id: str
    reason: DeclineReason


@dataclass(frozen=True, slots=True)
class StartLookup:
    """Ask the DRAM tier; report LookupEnded (or ProductionFailed, same as nothing found).

    `chain` as in StartCompute. A StartReload or StartCompute that follows has the same job id,
    unless ProductionFailed was reported, which ends the job.
    """

    job_id: int
    key: PsiKey
    chain: Chain


@dataclass(frozen=True, slots=True)
class AbandonLookup:
    """Let go of the pin that the lookup holds; no report."""

    job_id: int


@dataclass(frozen=True, slots=True)
class GiveUpReload:
    """End the lookup or the reload of a job at once; psi is computed instead, after its LookupEnded or ReloadEnded.

    A pin that the lookup gets after all is the engine's to let go.
    """

    job_id: int


@dataclass(frozen=True, slots=True)
class StartReload:
    """Copy `tokens` found by the lookup of the same job into the pages; report ReloadEnded."""

    job_id: int
    page_ids: tuple[int, ...]
    tokens: int


@dataclass(frozen=True, slots=True)
class StartCompute:
    """Extend psi in the pages, in chunks; report each ChunkEnded, or ProductionFailed.

    Tokens below `from_tokens` are complete and must not be written. `page_ids` are all
    pages of the entry, in order: token i lies in page_ids[i // PAGE_TOKENS].
    `chain` has at least `to_tokens` tokens and came with a PreInferAsked: of an open ticket,
    or, when only ranks wait any more, of one that closed since. An engine that keeps histories
    must find them by its digest and not by key: a declined ask of another history has the same key.
    """

    job_id: int
    key: PsiKey
    chain: Chain
    page_ids: tuple[int, ...]
    from_tokens: int
    to_tokens: int
    deadline_ns: int


@dataclass(frozen=True, slots=True)
class CancelProduction:
    """Stop a job (lookup, reload or compute) as soon as possible.

    Its pages stay reserved until its last report: ProductionFailed, LookupEnded,
    ReloadEnded, or the ChunkEnded that reaches the target. One of them must come.
    """

    job_id: int


@dataclass(frozen=True, slots=True)
class PromoteProduction:
    """A rank waits for this job: lend it the rank's class, deadline and when it is due, in place of an earlier loan.

    Said again after StartLookup and StartCompute while somebody waits: that is new work.
    """

    job_id: int
    deadline_ns: int
    due_ns: int | None = None
    """By when psi must be there for a rank that waits to be within its budget; None: for none of them it is known."""


@dataclass(frozen=True, slots=True)
class DemoteProduction:
    """Nobody waits for this job any more (they overtook it or left): take back what it was lent."""

    job_id: int


@dataclass(frozen=True, slots=True)
class RankOnPsi:
    """Rank on the first `tokens` tokens of these pages; leased until RankEnded or RankAbandoned."""

    rank_id: int
    entry_id: int
    page_ids: tuple[int, ...]
    tokens: int
    tier: Tier
    producer_trace: str
    joined_ns: int
    """Waiting for psi in production."""


@dataclass(frozen=True, slots=True)
class RankInFull:
    """Rank without psi. RankEnded or RankAbandoned is reported here too."""

    rank_id: int
    reason: FallbackReason


@dataclass(frozen=True, slots=True)
class StartSpill:
    """Copy an entry to the DRAM tier; report SpillEnded."""

    entry_id: int
    key: PsiKey
    page_ids: tuple[int, ...]
    tokens: int
    digest: bytes
    producer_trace: str


@dataclass(frozen=True, slots=True)
class ForgetDram:
    """Erase a user from the DRAM tier, staging included."""

    owner: UserKey


Effect = (
    Accept
    | Decline
    | StartLookup
    | AbandonLookup
    | GiveUpReload
    | StartReload
    | StartCompute
    | CancelProduction
    | PromoteProduction
    | DemoteProduction
    | RankOnPsi
    | RankInFull
    | StartSpill
    | ForgetDram
)
