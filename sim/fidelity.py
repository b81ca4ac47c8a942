"""The measured small cluster beside the same one under virtual time: `python -m sim.fidelity [--report DIR]`.

Takes a report of the load benchmark, simulates its cluster from what it measured of the machine (measured.py), sends
the very traces of its probes, and compares: the tail of ranking at each probed rate, the tiers that ranks came from,
and the highest rate under the objective, found by the benchmark's own search. Probes that times are taken from are not
compared. Nothing is fitted to what is compared. The last line is one JSON document.

Source: design, section 8.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from bench.load.estimate import bursts_of
from bench.load.profile import Profile, Traffic, profile_of
from bench.load.search import RateSearch, Verdict
from bench.load.traffic import Plan, plan
from sim.cluster import Cluster
from sim.cores import Cores
from sim.fidelity_table import table
from sim.kernel import MS, SECOND, rest_collector
from sim.measured import FULL, RELAY, Measured, Row, Unmeasured, is_compared, measured_of
from sim.messages import Request
from sim.record import Record
from sim.settings import MIB, Settings
from sim.trace import Planned

REPORTS = Path(__file__).resolve().parent.parent / "bench" / "reports"
TOKEN_BYTES = 4096
"""K/V of the benchmark's model, d256_h4x64_l4 in bfloat16."""
SECTIONS = ("slo", "stages", "traffic", "lengths", "deployment", "model")
"""Of a profile, among what a run says of its configuration."""
SEEDS = 3
"""Runs of one probe; another seed is other noise, and in a search another trace, too."""
RATE_LEAST_HZ, RATE_MOST_HZ = 4.0, 500.0
"""As the benchmark's."""
TOLERANCE = 0.03
"""Of the search: the benchmark stops at a tenth, because its probes take minutes."""
PROBES_MAX = 12
BACKGROUND_NS = 10 * MS
"""Between two pieces of the background's work."""
USERS = 10_000_000


@dataclass(slots=True)
class Outcome:
    """Counted requests of one simulated probe."""

    ranks_ms: list[float]
    late: int
    bursts: tuple[int, ...]
    tiers: Counter[str]

    def quantile_ms(self, quantile: float) -> float:
        """The next larger one that was seen, as the benchmark does it."""
        return float(np.quantile(self.ranks_ms, quantile, method="higher"))


class Counted(Record):
    """Keeps the requests after the warm-up."""

    def __init__(self, rank_ns: int, end_to_end_ns: int, first: int) -> None:
        super().__init__(rank_ns, end_to_end_ns)
        self._first = first
        self.requests_ended: list[Request] = []

    def add(self, request: Request) -> None:
        """A request has ended."""
        if request.index >= self._first:
            super().add(request)
            self.requests_ended.append(request)


class Machine:
    """The measured cluster, to be run as often as wanted."""

    def __init__(self, run: Row) -> None:
        """Raises Unmeasured when the run lacks something."""
        self.profile: Profile = profile_of(run["config"]["name"], {name: run["config"][name] for name in SECTIONS})
        self.measured: Measured = measured_of(run, TOKEN_BYTES)

    def run(self, mode: str, tokens: int, rate_hz: float, traffic: Traffic, trace_seed: int, seed: int) -> Outcome:
        """One probe."""
        profile = replace(self.profile, traffic=traffic)
        requests = plan(
            Plan(
                traffic=traffic,
                stages=profile.stages,
                rate_hz=rate_hz,
                seed=trace_seed,
                first_user=0,
                users=USERS,
                tokens=tokens,
            )
        )
        settings = self._settings(mode, rate_hz, profile, requests[-1].arrives_ns / SECOND + 1.0, seed)
        first = sum(not request.is_counted for request in requests)
        record = Counted(int(profile.slo.rank_ms * MS), int(profile.slo.end_to_end_ms * MS), first)
        cluster = Cluster(settings, Planned(requests, settings.limits), record)
        for ranker in cluster.rankers.values():
            ranker.true_cost = self.measured.true
        self._load(cluster, mode, [(request.arrives_ns, request.due_ns) for request in requests])
        cluster.run()
        return _outcome(record, int(profile.slo.rank_ms * MS))

    def _settings(self, mode: str, rate_hz: float, profile: Profile, seconds: float, seed: int) -> Settings:
        wanted, measured = profile.deployment, self.measured
        return Settings(
            seed=seed,
            instances=wanted.rankers,
            instances_per_host=wanted.rankers,
            rate_hz=rate_hz,
            seconds=seconds,
            users=USERS,
            direct_share=1.0 if mode == FULL else 0.0,
            has_dram=mode not in (FULL, RELAY),
            profile=profile,
            cost=measured.published,
            device_budget_bytes=wanted.device_budget_mb * MIB,
            dram_budget_bytes=wanted.dram_budget_mb * MIB,
            delay_ns=measured.message_ns,
            delay_spread=measured.message_spread,
            skew_ns=0,
            checks="some",
        )

    def _load(self, cluster: Cluster, mode: str, times_ns: Sequence[tuple[int, int]]) -> None:
        """The machine's other work: a relayed request's is done half on its arrival, half when it is ranked."""
        kernel, host = cluster.kernel, self.measured.host[mode]
        cores = Cores(kernel, [ranker.device for ranker in cluster.rankers.values()], self.measured.cores)
        for arrives_ns, due_ns in times_ns:
            parts = (due_ns,) if mode == FULL else (arrives_ns, due_ns)
            for at_ns in parts:
                kernel.at(at_ns, cores.want, int(host.request_ns / len(parts)))
        for at_ns in range(0, int(cluster.settings.seconds * SECOND), BACKGROUND_NS):
            kernel.at(at_ns, cores.want, int(host.background * BACKGROUND_NS))


def fidelity(run: Row, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Prediction beside measurement.

    Raises:
        Unmeasured: the run lacks what a simulation of it needs, or has nothing to compare.
    """
    machine = Machine(run)
    probes = [_probe_row(machine, probe) for probe in run["probes"] if is_compared(probe)]
    searches = []
    for search in run["searches"]:
        if search["kind"] == "rate" and search["mode"] in machine.measured.host and search["value"] is not None:
            searches.append(_search_row(machine, search))
            say(json.dumps(searches[-1]))
    if not probes or not searches:
        raise Unmeasured("a rate search that found a rate")
    errors, p99s = [each["error"] for each in searches], [abs(each["p99_error"]) for each in probes]
    return {
        "throughput_err": round(fmean(abs(error) for error in errors), 3),
        "throughput_err_max": round(max(abs(error) for error in errors), 3),
        "p99_err": round(fmean(p99s), 3),
        "p99_err_median": round(median(p99s), 3),
        "p99_err_max": round(max(p99s), 3),
        "p99_at_rates_ms": probes,
        "throughput_under_slo_hz": searches,
        "source": run.get("source", {}),
    }


def _probe_row(machine: Machine, probe: Row) -> dict[str, Any]:
    traffic = replace(machine.profile.traffic, return_share=probe["return_share"], requests=probe["requests"])
    runs = [
        machine.run(probe["mode"], probe["tokens"], probe["rate_hz"], traffic, probe["seed"], seed)
        for seed in range(1, SEEDS + 1)
    ]
    measured_ms, predicted_ms = probe["rank_ms"]["p99"], fmean(one.quantile_ms(0.99) for one in runs)
    return {
        "mode": probe["mode"],
        "tokens": probe["tokens"],
        "rate_hz": probe["rate_hz"],
        "p50_ms": [probe["rank_ms"]["p50"], round(fmean(one.quantile_ms(0.5) for one in runs), 1)],
        "p99_ms": [measured_ms, round(predicted_ms, 1)],
        "p99_error": round(predicted_ms / measured_ms - 1.0, 3),
        "late": [probe["late"], round(fmean(one.late for one in runs), 1)],
        "tiers": {
            tier: [
                round(probe["tiers"].get(tier, 0) / probe["requests"], 3),
                round(sum(one.tiers[tier] for one in runs) / sum(len(one.ranks_ms) for one in runs), 3),
            ]
            for tier in ("DEVICE", "DRAM", "JOINED", "FULL")
        },
    }


def _search_row(machine: Machine, found: Row) -> dict[str, Any]:
    """The benchmark's search over simulated probes; what is compared is where each expects the limit."""
    slo, tokens = machine.profile.slo, found["at_tokens"]
    search = RateSearch(
        found["value"],
        least=RATE_LEAST_HZ,
        most=RATE_MOST_HZ,
        quantile=slo.quantile,
        tolerance=TOLERANCE,
        probes_max=PROBES_MAX,
    )
    traffic = machine.profile.traffic
    seeds: Iterator[int] = iter(range(1, 1000))
    while (rate_hz := search.next()) is not None:
        runs = [machine.run(found["mode"], tokens, rate_hz, traffic, next(seeds), 1) for _ in range(SEEDS)]
        search.observe(rate_hz, _verdict(runs))
    predicted = search.result()
    measured_hz = found["crossing"] or found["value"]
    predicted_hz = predicted.crossing or predicted.value or 0.0
    return {
        "mode": found["mode"],
        "tokens": tokens,
        "value_hz": [found["value"], predicted.value],
        "crossing_hz": [round(measured_hz, 2), round(predicted_hz, 2)],
        "error": round(predicted_hz / measured_hz - 1.0, 3),
        "measured_interval_hz": [_rounded(found["low"]), _rounded(found["high"])],
        "is_within": (found["low"] or 0.0) <= predicted_hz <= (found["high"] or float("inf")),
    }


def _verdict(runs: Sequence[Outcome]) -> Verdict:
    late, count = sum(one.late for one in runs), sum(len(one.ranks_ms) for one in runs)
    bursts = tuple(size for one in runs for size in one.bursts)
    # The stages take constant times here, so that both limits are missed together.
    return Verdict(late, count, errors=0, end_to_end_late=late, is_disturbed=False, bursts=bursts)


def _outcome(record: Counted, rank_ns: int) -> Outcome:
    ended = sorted(record.requests_ended, key=lambda request: request.index)
    is_late = [bool(request.error) or request.rank_ns > rank_ns for request in ended]
    return Outcome([request.rank_ns / MS for request in ended], sum(is_late), bursts_of(is_late), record.tiers)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def of_newest_report() -> dict[str, Any] | None:
    """Of the newest report; None when there is none, or one that lacks what a simulation needs."""
    report = newest_report()
    if report is None:
        return None
    try:
        return {"report": report.name, **fidelity(json.loads((report / "run.json").read_text()))}
    except Unmeasured as error:
        print(f"fidelity: {report.name} lacks {error}", file=sys.stderr)
        return None


def newest_report(folder: Path = REPORTS) -> Path | None:
    """The newest report of the load benchmark, by its name."""
    found = sorted(folder.glob("load_*/run.json"), key=lambda path: path.parent.name.rpartition("_")[2])
    return found[-1].parent if found else None


def main(arguments: list[str] | None = None) -> int:
    """Simulate, compare, print."""
    parser = argparse.ArgumentParser(prog="python -m sim.fidelity", description="Prediction beside measurement.")
    parser.add_argument("--report", type=Path, help="folder with a run.json; the newest of bench/reports when absent")
    parser.add_argument("--out", type=Path, help="folder for fidelity.md and fidelity.json")
    given = parser.parse_args(arguments)
    report = given.report or newest_report()
    if report is None:
        parser.error("--report: no report of the load benchmark is there")
    try:
        run = json.loads((report / "run.json").read_text())
        rest_collector()
        found = {"report": report.name, **fidelity(run, lambda text: print(text, file=sys.stderr))}
    except (OSError, ValueError, KeyError) as error:
        parser.error(f"--report: {report} cannot be simulated: {type(error).__name__}: {error}")
    text = table(found)
    print(text, file=sys.stderr)
    if given.out:
        (given.out / "fidelity.md").write_text(text)
        (given.out / "fidelity.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
