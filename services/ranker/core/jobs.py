"""Device jobs as the engine asks for them: ids, classes, expected times, and what is kept back of a deadline.

Source: design, section 3 (ranker).
"""

from __future__ import annotations

from relaygr.domain.cost import CostModel
from services.ranker.core.effects import StartCompute
from services.ranker.core.schedule import Job, JobClass

HAND_OVER_NS = 4_000_000
HAND_OVER_SHARE = 10
"""A tenth of a rank's time, at least 4 ms, is kept back when it is decided how long it may wait
for psi: the timer's delay, the way to the device thread and back, and the reply are no part
of the cost model."""
APPEND_TOKENS_MAX = 64
"""New tokens up to which an append is short: about what a returning user brings, and less than a rank's candidates."""
TELL_NS = 8_000_000
"""Least time between two reports of a production's progress, since each wakes the event loop. A rank that overtakes
it goes on from the latest that was told."""
_RANK_JOB = 1
"""Rank jobs take odd ids, productions even ones."""


def placed_by_ns(deadline_ns: int, now_ns: int) -> int:
    """Until when a rank must know its psi to be answered by its deadline."""
    return deadline_ns - max(HAND_OVER_NS, (deadline_ns - now_ns) // HAND_OVER_SHARE)


def rank_job_id(rank_id: int) -> int:
    """At the device, of a rank."""
    return 2 * rank_id + _RANK_JOB


def rank_job(
    cost: CostModel,
    rank_id: int,
    candidates: int,
    rest_tokens: int,
    psi_tokens: int,
    deadline_ns: int,
    due_ns: int | None = None,
) -> Job:
    """A rank on `psi_tokens` of psi, 0 for one in full; `rest_tokens` of the history and the delta come on top."""
    job_class = JobClass.RANK if psi_tokens else JobClass.FULL
    expected_ns = cost.rank_ns(candidates, rest_tokens, psi_tokens)
    return Job(rank_job_id(rank_id), job_class, deadline_ns, expected_ns, droppable=True, due_ns=due_ns)


def production_job_id(job_id: int) -> int:
    """At the device, of a job of the residency machine."""
    return 2 * job_id


def production_job(cost: CostModel, effect: StartCompute) -> Job:
    """The compute that the residency machine starts."""
    new_tokens = effect.to_tokens - effect.from_tokens
    is_short = effect.from_tokens and new_tokens <= APPEND_TOKENS_MAX
    job_class = JobClass.APPEND if is_short else JobClass.PRE_INFER
    expected_ns = cost.extend_ns(new_tokens, effect.from_tokens)
    return Job(production_job_id(effect.job_id), job_class, effect.deadline_ns, expected_ns, droppable=True)
