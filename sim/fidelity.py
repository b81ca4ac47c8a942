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
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

from bench.load.search import RateSearch, Verdict
from sim.fidelity_table import table
from sim.kernel import rest_collector
from sim.machine import Machine, Outcome
from sim.measured import Row, Unmeasured, is_compared

REPORTS = Path(__file__).resolve().parent.parent / "bench" / "reports"
CORES = (":/services/*/core", ":/relaygr/domain")
SEEDS = 3
"""Runs of one probe; another seed is other noise, and in a search another trace, too."""
RATE_LEAST_HZ, RATE_MOST_HZ = 4.0, 500.0
"""As the benchmark's."""
TOLERANCE = 0.03
"""Of the search: the benchmark stops at a tenth, because its probes take minutes."""
PROBES_MAX = 12


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
        "measured_commit": run.get("source", {}).get("commit"),
        "is_same_code": is_same_code(run.get("source", {}).get("commit", "")),
    }


def is_same_code(commit: str) -> bool | None:
    """Whether the cores that are run here are those that were measured; None when this cannot be told."""
    if not commit:
        return None
    command = ["git", "diff", "--quiet", commit, "--", *CORES]
    try:
        done = subprocess.run(command, cwd=REPORTS, capture_output=True, check=False)
    except OSError:
        return None
    return {0: True, 1: False}.get(done.returncode)


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


_DATED = re.compile(r"_(\d{4}-\d{2}-\d{2})(_\w+)?$")


def newest_report(folder: Path = REPORTS) -> Path | None:
    """The newest report of the load benchmark, by the date in its name; of one date, the one that says no more."""
    dated = ((_DATED.search(path.parent.name), path.parent) for path in folder.glob("load_*/run.json"))
    newest = max(((match[1], match[2] is None, report) for match, report in dated if match), default=None)
    return newest[2] if newest else None


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
