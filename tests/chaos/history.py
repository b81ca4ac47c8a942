"""What callers saw: every request that was sent, how it ended, and when. Plain data, judged by verdict.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.load.traffic import PlannedRequest


@dataclass(slots=True)
class Call:
    """One request. Times are monotonic nanoseconds; 0 where it has not come so far."""

    index: int
    sent_ns: int
    ranked_ns: int = 0
    """When ranking was asked for."""
    ended_ns: int = 0
    error: str = ""
    """Class of the error; empty when answered."""
    detail: str = ""
    scores: NDArray[np.float32] | None = None
    tier: str = ""
    instance_id: str = ""
    decision: str = ""

    @property
    def is_answered(self) -> bool:
        """True when scores came."""
        return self.scores is not None

    def was_ranking(self, begin_ns: int, end_ns: int) -> bool:
        """True when its rank was under way at some time between these."""
        return 0 < self.ranked_ns <= end_ns and (not self.ended_ns or self.ended_ns > begin_ns)

    def to_json(self) -> dict[str, Any]:
        """Without the scores."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "scores"}


@dataclass(slots=True)
class History:
    """Of one scenario."""

    fault_ns: int = 0
    """When the harm was done."""
    end_ns: int = 0
    """When all was whole again; 0 when it stayed away."""
    stop_ns: int = 0
    """No request was sent from then on."""
    lag_ns: int = 0
    """The longest that the callers' own process was held up: what ends so much after its deadline is not late."""
    calls: dict[int, Call] = field(default_factory=dict)
    """By the request's index."""

    def begun_ns(self, requests: Mapping[int, PlannedRequest]) -> int:
        """When the load began: a request may be sent later than planned, none was sent earlier."""
        return min(call.sent_ns - requests[call.index].arrives_ns for call in self.calls.values())

    def write(self, path: Path) -> None:
        """One JSON document a line, the first of the fault: for whoever asks what happened."""
        lines = [{"fault_ns": self.fault_ns, "end_ns": self.end_ns}, *(call.to_json() for call in self.calls.values())]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def phase_of(self, at_ns: int) -> str:
        """Before, during or after the fault."""
        if at_ns < self.fault_ns:
            return "before"
        return "during" if not self.end_ns or at_ns < self.end_ns else "after"
