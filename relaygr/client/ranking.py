"""What ranking answered."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from relaygr.errors import CorruptData
from relaygr.rpc.enums import name_of
from relaygr.v1.ranker_pb2 import FallbackReason, RankResponse, Tier
from relaygr.v1.router_pb2 import Branch, RouterServiceRankResponse


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Scores of one recommendation, and how they came about."""

    items: NDArray[np.int64]
    """Item ids, as asked."""
    scores: NDArray[np.float32]
    """Logits [items, tasks]; larger is better."""
    tasks: tuple[str, ...]
    """Task names, in column order."""
    tier: str
    """Where the prefix was: DEVICE, DRAM, JOINED; FULL when all was inferred inside ranking."""
    fallback: str
    """Why ranking ran in full; empty otherwise."""
    admitted: bool
    """True when the rank carried a ticket."""
    unknown: tuple[int, ...]
    """Indexes of items the model does not know, scored as out-of-vocabulary."""
    unknown_behaviour_count: int
    """Behaviours the model does not know."""
    psi_tokens: int
    """Prefix tokens taken from psi."""
    inferred_tokens: int
    """Tokens inferred inside the rank."""
    instance_id: str
    """Instance that ranked."""
    branch: str
    """How the router chose it."""
    attempts: int
    """Instances the router tried."""
    trace_id: str
    """Trace of the request, hexadecimal."""
    timings_ms: dict[str, float] = field(default_factory=dict)
    """Milliseconds: each stage as seen here, and rank.queue, rank.join, rank.prepare, rank.compute and
    rank.total as seen by the ranker."""
    score_difference: float | None = None
    """Of a verified rank: largest difference from full inference, relative for scores above 1."""

    def order(self, task: str | None = None) -> NDArray[np.intp]:
        """Indexes of items, best first; equal scores keep the order asked."""
        return np.argsort(-self.scores[:, self._column(task)], kind="stable")

    def top(self, count: int, task: str | None = None) -> list[tuple[int, float]]:
        """The best items with their scores for one task, by default the first."""
        column = self._column(task)
        return [(int(self.items[i]), float(self.scores[i, column])) for i in self.order(task)[:count]]

    def as_dict(self, task: str | None = None) -> dict[int, float]:
        """Item id to score for one task, by default the first."""
        column = self._column(task)
        return dict(zip(self.items.tolist(), self.scores[:, column].tolist(), strict=True))

    def _column(self, task: str | None) -> int:
        return 0 if task is None else self.tasks.index(task)


def ranking_of(
    items: NDArray[np.int64], response: RouterServiceRankResponse, *, admitted: bool, trace_id: str
) -> Ranking:
    """Read a reply.

    Raises:
        CorruptData: its scores do not fit the items.
    """
    rank = response.rank
    return Ranking(
        items=items,
        scores=_scores(rank, len(items)),
        tasks=tuple(rank.tasks),
        tier=name_of(Tier, rank.tier, "TIER_"),
        fallback=_fallback(rank),
        admitted=admitted,
        unknown=tuple(rank.unknown_candidates),
        unknown_behaviour_count=rank.unknown_behaviour_count,
        psi_tokens=rank.psi_tokens,
        inferred_tokens=rank.inferred_tokens,
        instance_id=rank.instance_id,
        branch=name_of(Branch, response.branch, "BRANCH_"),
        attempts=response.attempts,
        trace_id=trace_id,
        timings_ms={
            "rank.queue": rank.timings.queue_ns / 1e6,
            "rank.join": rank.timings.join_ns / 1e6,
            "rank.prepare": rank.timings.prepare_ns / 1e6,
            "rank.compute": rank.timings.compute_ns / 1e6,
            "rank.total": rank.timings.total_ns / 1e6,
        },
    )


def score_difference(scores: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Max |difference| / max(1, |reference|).

    Source: design, section 4 (identity and exactness).
    """
    wide, reference_wide = scores.astype(np.float64), reference.astype(np.float64)
    return float(np.max(np.abs(wide - reference_wide) / np.maximum(1.0, np.abs(reference_wide)), initial=0.0))


def _scores(rank: RankResponse, items: int) -> NDArray[np.float32]:
    tasks = len(rank.tasks)
    if len(rank.logits) != items * tasks * 4:
        raise CorruptData(f"{len(rank.logits)} bytes of scores for {items} items and {tasks} tasks")
    return np.frombuffer(rank.logits, "<f4").reshape(items, tasks)


def _fallback(rank: RankResponse) -> str:
    name = name_of(FallbackReason, rank.fallback, "FALLBACK_REASON_")
    return "" if name == "UNSPECIFIED" else name
