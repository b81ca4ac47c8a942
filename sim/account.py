"""What came of a scenario, phase by phase, as figures and as text that is compared word for word.

A request counts in the phase in which it arrived. `survival` is the share of all that a trigger admitted and that were
ranked or refused later, also of those that the ranker declined (I1). Load is device time, of the instances that were
there from the begin to the end of a phase.

Source: design, section 5.
"""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from sim.cluster import Cluster
from sim.kernel import SECOND
from sim.messages import Request
from sim.record import ON_PSI, Record, share
from sim.recovery import recovery_s
from sim.story import Scenario

_COLUMNS = (
    ("requests", "requests"),
    ("slo_met", "slo_met"),
    ("in_time_hz", "in_time/s"),
    ("survival", "survival"),
    ("affinity", "affinity"),
    ("rank_p50_ms", "p50_ms"),
    ("rank_p99_ms", "p99_ms"),
    ("max_over_mean_load", "max/mean"),
    ("device_busy", "busy"),
    ("recovery_s", "recovery_s"),
)


@dataclass(slots=True)
class _Part:
    """One phase."""

    record: Record
    admitted: int = 0
    admitted_on_psi: int = 0
    busy_ns: dict[str, int] = field(default_factory=dict)
    """By boot at its begin."""
    spent_ns: list[int] = field(default_factory=list)


class Account:
    """Follows a cluster through the phases of a scenario.

    Args:
        scenario: its phases.
        cluster: before it runs.
    """

    def __init__(self, scenario: Scenario, cluster: Cluster) -> None:
        self.scenario = scenario
        self._cluster = cluster
        slo = cluster.settings.profile.slo
        self._parts = [_Part(Record(int(slo.rank_ms * 1e6), int(slo.end_to_end_ms * 1e6))) for _ in scenario.phases]
        self._begins_ns = [int(begin_s * SECOND) for begin_s in scenario.begins_s.values()]
        cluster.record.on_add = self._add
        for at, begin_ns in enumerate([*self._begins_ns, int(scenario.seconds * SECOND)]):
            cluster.kernel.at(begin_ns, self._turn, at)

    def figures(self) -> dict[str, dict[str, Any]]:
        """By phase; after the run."""
        return {phase.name: self._figures(at) for at, phase in enumerate(self.scenario.phases)}

    def text(self) -> str:
        """For a reader, and to be compared."""
        scenario, figures = self.scenario, self.figures()
        users = f"Zipf {scenario.users.zipf} over {scenario.users.count} users" if scenario.users.zipf else "visits"
        begins_s = scenario.begins_s
        lines = [
            f"{scenario.name}: {scenario.what}",
            f"{scenario.instances} instances, {scenario.rate_hz} requests a second each, {scenario.arrivals}, {users}, "
            f"seed {scenario.seed}{', ' + scenario.ablation if scenario.ablation else ''}",
            *(f"at {begins_s[each.at]:g} s: {each.kind}{_lasting(each.seconds)}" for each in scenario.faults),
            "",
            *_table(scenario, figures),
        ]
        for name, title in (("decisions", "admitted or why not"), ("tiers", "psi from"), ("errors", "errors")):
            lines += ["", title, *(f"  {phase:10} {_counts(figures[phase][name])}" for phase in figures)]
        return "\n".join(line.rstrip() for line in lines) + "\n"

    def _add(self, request: Request) -> None:
        part = self._parts[max(0, bisect(self._begins_ns, request.arrives_ns) - 1)]
        part.record.add(request)
        if request.ticket is not None:
            part.admitted += 1
            part.admitted_on_psi += not request.error and request.tier in ON_PSI

    def _turn(self, at: int) -> None:
        """A phase ends, and the next one begins."""
        busy_ns = {
            f"{ranker.name}/{ranker.epoch}": ranker.device.busy_ns
            for ranker in self._cluster.rankers.values()
            if ranker.is_alive
        }
        if at:
            begun_ns = self._parts[at - 1].busy_ns
            self._parts[at - 1].spent_ns = [ns - begun_ns[boot] for boot, ns in busy_ns.items() if boot in begun_ns]
        if at < len(self._parts):
            self._parts[at].busy_ns = busy_ns

    def _figures(self, at: int) -> dict[str, Any]:
        part, phase = self._parts[at], self.scenario.phases[at]
        record, spent_ns = part.record, part.spent_ns
        mean_ns = sum(spent_ns) / len(spent_ns) if spent_ns else 0.0
        return {
            "requests": record.requests,
            "slo_met": share(record.met, record.requests),
            "in_time_hz": round(record.met / phase.seconds, 1),
            "survival": share(part.admitted_on_psi, part.admitted),
            "affinity": share(record.met_instance, record.accepted),
            "rank_p50_ms": record.quantile_ms(0.5),
            "rank_p99_ms": record.quantile_ms(0.99),
            "max_over_mean_load": round(max(spent_ns) / mean_ns, 3) if mean_ns else None,
            "device_busy": round(mean_ns / (phase.seconds * SECOND), 3),
            "recovery_s": self._recovery_s(at),
            "decisions": dict(sorted(record.decisions.items())),
            "tiers": dict(sorted(record.tiers.items())),
            "errors": dict(sorted(record.errors.items())),
        }

    def _recovery_s(self, at: int) -> float | None:
        """Of a phase at the rate of the first measured one: from its begin, which is the load's return or a loss."""
        phases, begins_s = self.scenario.phases, list(self.scenario.begins_s.values())
        first = next((place for place, phase in enumerate(phases) if phase.is_measured), 0)
        if at <= first or phases[at].rate != phases[first].rate:
            return None
        before_s = begins_s[first], begins_s[first] + phases[first].seconds
        return recovery_s(self._cluster.record.by_tenth, before_s, begins_s[at])


def _lasting(seconds: float) -> str:
    return f" for {seconds:g} s" if seconds else ""


def _table(scenario: Scenario, figures: dict[str, dict[str, Any]]) -> list[str]:
    heads = "".join(f"{title:>11}" for _, title in _COLUMNS)
    lines = [f"{'phase':10}{'seconds':>8}{'rate':>6}{heads}"]
    for phase in scenario.phases:
        cells = "".join(f"{_cell(figures[phase.name][name]):>11}" for name, _ in _COLUMNS)
        lines.append(f"{phase.name:10}{phase.seconds:>8g}{phase.rate:>6g}{cells}")
    return lines


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def _counts(counts: Counter[str]) -> str:
    return "  ".join(f"{name} {count}" for name, count in counts.items()) or "-"
