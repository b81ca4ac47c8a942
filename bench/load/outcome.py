"""What came of one request, and its form in a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One request of a trace. Times are nanoseconds; -1 where there was no such step."""

    index: int
    decision: str = ""
    reason: str = ""
    tier: str = ""
    fallback: str = ""
    branch: str = ""
    instance_id: str = ""
    error: str = ""
    """Kind and text; empty when ranked."""
    arrive_late_ns: int = -1
    """From the planned arrival to the call."""
    arrive_ns: int = -1
    """The trigger's answer, from the call."""
    rank_late_ns: int = -1
    """From when ranking was due to the call."""
    call_ns: int = -1
    """The rank's call, both hops included."""
    rank_ns: int = -1
    """From when ranking was due to its answer."""
    end_to_end_ns: int = -1
    """From the planned arrival to the ranking's answer."""
    queue_ns: int = 0
    join_ns: int = 0
    prepare_ns: int = 0
    compute_ns: int = 0
    total_ns: int = 0
    """Inside the ranker, from the call's arrival to its answer."""
    psi_tokens: int = 0
    inferred_tokens: int = 0


def write_outcomes(path: Path, outcomes: Sequence[Outcome]) -> None:
    """One JSON document a line."""
    path.write_text("".join(json.dumps(asdict(outcome)) + "\n" for outcome in outcomes))


def read_outcomes(path: Path) -> list[Outcome]:
    """What `write_outcomes` wrote."""
    return [Outcome(**json.loads(line)) for line in path.read_text().splitlines()]
