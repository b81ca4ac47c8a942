"""What came of one input, and of all of a target's."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What came of one input."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    CRASH = "crashes"
    HANG = "hangs"
    WITHOUT_FIELD = "without_field"
    LEAK = "leaks"


FAULTS = (Kind.CRASH, Kind.HANG, Kind.WITHOUT_FIELD, Kind.LEAK)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A kind, and for a fault where it is: what has the same detail is the same fault."""

    kind: Kind
    detail: str = ""
    trace: str = ""


ACCEPTED = Verdict(Kind.ACCEPTED)


def rejected(problem: object = "") -> Verdict:
    return Verdict(Kind.REJECTED, str(problem))


def without_field(problem: object) -> Verdict:
    return Verdict(Kind.WITHOUT_FIELD, str(problem))


def crash(problem: object) -> Verdict:
    return Verdict(Kind.CRASH, str(problem))


@dataclass(slots=True)
class Tally:
    """Counts of a target, and the first input of each fault."""

    counts: Counter[Kind] = field(default_factory=Counter)
    replayed: int = 0
    elapsed_s: float = 0.0
    faults: dict[str, str] = field(default_factory=dict)
    """Kind and detail of a fault, and where its input is kept."""

    def add(self, verdict: Verdict) -> None:
        self.counts[verdict.kind] += 1

    @property
    def inputs(self) -> int:
        return self.counts.total() - self.counts[Kind.LEAK]

    def take(self, other: Tally) -> None:
        """Add another run of the same target."""
        self.counts += other.counts
        self.replayed += other.replayed
        self.elapsed_s += other.elapsed_s
        self.faults |= other.faults

    def to_json(self) -> dict[str, Any]:
        share = self.counts[Kind.ACCEPTED] / self.inputs if self.inputs else 0.0
        return {
            "inputs": self.inputs,
            "replayed": self.replayed,
            **{kind.value: self.counts[kind] for kind in Kind},
            "accepted_share": round(share, 3),
            "inputs_per_s": round(self.inputs / self.elapsed_s) if self.elapsed_s else 0,
            "elapsed_s": round(self.elapsed_s, 1),
            "faults": self.faults,
        }

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Tally:
        counts = Counter({kind: raw[kind.value] for kind in Kind})
        return cls(counts, raw["replayed"], raw["elapsed_s"], raw["faults"])
