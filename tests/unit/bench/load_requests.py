"""Requests and outcomes of a trace with plain figures, to change one of."""

from typing import Any

from bench.load.outcome import Outcome
from bench.load.traffic import PlannedRequest

MS = 1_000_000
ARRIVES_APART_NS = 100 * MS


def request(index: int, **changes: Any) -> PlannedRequest:
    """Ten a second, ranking due 60 ms after each."""
    values: dict[str, Any] = {
        "index": index,
        "user": index,
        "arrives_ns": index * ARRIVES_APART_NS,
        "retrieval_ns": 40 * MS,
        "pre_processing_ns": 20 * MS,
        "behaviours": 1023,
        "delta": 1,
        "candidates": 256,
        "visit": 0,
        "is_counted": True,
    }
    return PlannedRequest(**(values | changes))


def outcome(index: int, *, rank_ms: float = 20.0, **changes: Any) -> Outcome:
    """Ranked on psi of the device; what the steps leave of rank_ms is compute's."""
    rank_ns = int(rank_ms * MS)
    values: dict[str, Any] = {
        "index": index,
        "decision": "ADMITTED",
        "tier": "DEVICE",
        "branch": "TICKET",
        "instance_id": "ranker-1",
        "arrive_late_ns": MS // 10,
        "arrive_ns": 3 * MS,
        "rank_late_ns": MS // 10,
        "call_ns": rank_ns - MS // 10,
        "rank_ns": rank_ns,
        "end_to_end_ns": rank_ns + 60 * MS,
        "queue_ns": MS,
        "join_ns": 2 * MS,
        "prepare_ns": MS // 2,
        "compute_ns": rank_ns - 6 * MS,
        "total_ns": rank_ns - 2 * MS,
    }
    return Outcome(**(values | changes))
