"""Requests and histories that a test makes up, a request every 50 ms, all answered rightly unless it says otherwise."""

from __future__ import annotations

import numpy as np

from bench.load.traffic import PlannedRequest
from tests.chaos.history import Call, History
from tests.chaos.scenario import Holds, Kind, Pace, Scenario
from tests.chaos.verdict import Verdict, judge

MS = 1_000_000
COUNT, EVERY_NS, RANK_NS = 200, 50 * MS, 5 * MS
FAULT_NS, END_NS = 3_000 * MS, 6_000 * MS
STOP_NS = (COUNT + 20) * EVERY_NS
PACE = Pace()


def request(index: int) -> PlannedRequest:
    return PlannedRequest(
        index=index,
        user=index,
        arrives_ns=index * EVERY_NS,
        retrieval_ns=0,
        pre_processing_ns=0,
        behaviours=10,
        delta=0,
        candidates=3,
        visit=0,
        is_counted=True,
    )


def right(asked: PlannedRequest, version: str) -> np.ndarray:
    """Every request has scores of its own, and every version others."""
    return np.full((3, 2), asked.index / COUNT + int(version), np.float32)


def history(*, returns: bool = True) -> History:
    """Monotonic time begins at 1 ns, since 0 means that something has not come."""
    made = History(fault_ns=FAULT_NS, end_ns=END_NS if returns else 0, stop_ns=STOP_NS)
    for index in range(COUNT):
        at_ns = 1 + index * EVERY_NS
        made.calls[index] = Call(index, at_ns, at_ns, at_ns + RANK_NS, scores=right(request(index), "1"), tier="DEVICE")
    return made


def failed(call: Call, took_ns: int = RANK_NS, error: str = "Unreachable") -> None:
    call.scores, call.error, call.ended_ns = None, error, call.ranked_ns + took_ns


def judged(seen: History, holds: Holds | None = None, versions: tuple[str, ...] = ("1",)) -> Verdict:
    scenario = Scenario(name="made_up", kind=Kind.KILL, on=("ranker-1",), holds=holds or Holds())
    return judge(scenario, PACE, [request(index) for index in range(COUNT)], seen, right, versions)
