"""The life cycle of a psi, as a table. Every change of state is looked up here.

scripts/gen_state_picture.py draws the picture of the service README from TRANSITIONS.

Source: design, section 3 (ranker).
"""

from __future__ import annotations

from enum import Enum


class PsiState(Enum):
    """Where a psi is in its life."""

    ABSENT = "absent"
    """No entry, or one that has just ended."""
    LOOKING_UP = "looking up"
    """Pages reserved; the DRAM tier is being asked."""
    RELOADING = "reloading"
    """The DRAM tier is being copied into the pages."""
    PRODUCING = "producing"
    """Being computed, chunk by chunk; complete chunks may be leased."""
    RESIDENT = "resident"
    """Complete as far as anybody asked; may be leased. Evictable when nothing holds it."""
    SPILLING = "spilling"
    """Resident, and being copied to the DRAM tier; may be leased. An append waits for the copy."""
    CANCELLING = "cancelling"
    """Its job was told to stop and may still write: the pages stay until its last report."""
    LEAVING = "leaving"
    """Forgotten, matched by nobody; waits for leases, job and copy to end."""


class Cause(Enum):
    """Why a psi changes state."""

    PRE_INFER_ASKED = "pre-infer asked"
    LOOKUP_ENDED = "lookup ended"
    RELOAD_ENDED = "reload ended"
    CHUNK_ENDED = "chunk ended"
    PRODUCTION_FAILED = "production failed"
    UNWANTED = "nobody waits"
    SPILL_STARTED = "spill started"
    SPILL_ENDED = "spill ended"
    LEASE_ENDED = "last lease ended"
    EVICTED = "evicted"
    FORGOTTEN = "user forgotten"


_S = PsiState
_JOB_OVER = (_S.LOOKING_UP, _S.PRODUCING, _S.RESIDENT, _S.ABSENT)

TRANSITIONS: dict[tuple[PsiState, Cause], tuple[PsiState, ...]] = {
    (_S.ABSENT, Cause.PRE_INFER_ASKED): (_S.LOOKING_UP, _S.PRODUCING),
    (_S.LOOKING_UP, Cause.LOOKUP_ENDED): (_S.RELOADING, _S.PRODUCING),
    (_S.LOOKING_UP, Cause.PRODUCTION_FAILED): (_S.PRODUCING,),
    (_S.LOOKING_UP, Cause.UNWANTED): (_S.CANCELLING,),
    (_S.LOOKING_UP, Cause.FORGOTTEN): (_S.LEAVING,),
    (_S.RELOADING, Cause.RELOAD_ENDED): (_S.PRODUCING, _S.RESIDENT),
    (_S.RELOADING, Cause.PRODUCTION_FAILED): (_S.PRODUCING,),
    (_S.RELOADING, Cause.UNWANTED): (_S.CANCELLING,),
    (_S.RELOADING, Cause.FORGOTTEN): (_S.LEAVING,),
    (_S.PRODUCING, Cause.CHUNK_ENDED): (_S.PRODUCING, _S.RESIDENT),
    (_S.PRODUCING, Cause.PRODUCTION_FAILED): (_S.PRODUCING, _S.RESIDENT, _S.ABSENT),
    (_S.PRODUCING, Cause.UNWANTED): (_S.CANCELLING,),
    (_S.PRODUCING, Cause.FORGOTTEN): (_S.LEAVING,),
    (_S.RESIDENT, Cause.PRE_INFER_ASKED): (_S.PRODUCING, _S.LOOKING_UP),
    (_S.RESIDENT, Cause.SPILL_STARTED): (_S.SPILLING,),
    (_S.RESIDENT, Cause.EVICTED): (_S.ABSENT,),
    (_S.RESIDENT, Cause.FORGOTTEN): (_S.LEAVING,),
    (_S.SPILLING, Cause.SPILL_ENDED): (_S.RESIDENT, _S.PRODUCING),
    (_S.SPILLING, Cause.FORGOTTEN): (_S.LEAVING,),
    (_S.CANCELLING, Cause.LOOKUP_ENDED): _JOB_OVER,
    (_S.CANCELLING, Cause.RELOAD_ENDED): _JOB_OVER,
    (_S.CANCELLING, Cause.CHUNK_ENDED): (_S.PRODUCING, _S.RESIDENT, _S.ABSENT),
    (_S.CANCELLING, Cause.PRODUCTION_FAILED): _JOB_OVER,
    (_S.CANCELLING, Cause.FORGOTTEN): (_S.LEAVING,),
    (_S.LEAVING, Cause.FORGOTTEN): (_S.ABSENT,),
    (_S.LEAVING, Cause.LOOKUP_ENDED): (_S.ABSENT,),
    (_S.LEAVING, Cause.RELOAD_ENDED): (_S.ABSENT,),
    (_S.LEAVING, Cause.CHUNK_ENDED): (_S.ABSENT,),
    (_S.LEAVING, Cause.PRODUCTION_FAILED): (_S.ABSENT,),
    (_S.LEAVING, Cause.SPILL_ENDED): (_S.ABSENT,),
    (_S.LEAVING, Cause.LEASE_ENDED): (_S.ABSENT,),
}

HAS_JOB = (PsiState.LOOKING_UP, PsiState.RELOADING, PsiState.PRODUCING)
"""States in which a job works towards what was asked."""

LEASABLE = (PsiState.PRODUCING, PsiState.CANCELLING, PsiState.RESIDENT, PsiState.SPILLING)
"""States in which ranks may lease the complete tokens. LEASED is not a state of its own, because
it may begin and end in any of these, and keeps a leaving psi until it ends."""


def assert_allowed(source: PsiState, cause: Cause, target: PsiState) -> None:
    """Stop at a change of state that the table does not have."""
    assert target in TRANSITIONS.get((source, cause), ()), f"{source.name} may not become {target.name} by {cause.name}"
