"""The tiers' benchmark: `python -m bench.tiers`. Ends with one JSON line; a few minutes.

Steps are measured on this machine, with the copy that they are held to beside them; policies are compared on the same
traces through the cores, in virtual time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bench.engine.__main__ import DEMO_DIR
from bench.engine.machine import hardware
from bench.engine.report import table
from bench.load.profile import load_profile
from bench.tiers import admission
from bench.tiers.appends import append_speedup
from bench.tiers.int8 import measure_int8, rows
from bench.tiers.policies import Case, compared
from bench.tiers.remote import measure_remote
from bench.tiers.steps import measure_steps, ratio_from

RATIO_FROM_MIB = 8
TARGETS: dict[str, tuple[str, float]] = {
    "reload_per_memcpy": (">=", 0.55),
    "append_speedup": (">=", 15.0),
    "control_p50_ms": ("<=", 1.5),
    "recompute_avoided": (">=", 0.55),
}
"""Written before anything was measured."""
AVOIDED_PAGES = 512
"""Of the device, where recompute_avoided is read off: the load benchmark's budget for its model."""
PARTS = ("steps", "remote", "append", "policies", "admission", "int8")


def main(arguments: list[str] | None = None) -> int:
    """Measure, print tables on standard error and one line on standard output."""
    parser = argparse.ArgumentParser(prog="python -m bench.tiers", description="Reloads, stores, appends, policies.")
    parser.add_argument("--only", choices=PARTS, action="append", help="instead of all parts")
    parser.add_argument("--seed", type=int, default=1, help="of the traces")
    parser.add_argument("--profile", default="default", help="whose traffic is replayed")
    parser.add_argument("--out", type=Path, help="a file for the line, too")
    parser.add_argument("--trained", type=Path, help=f"folder of trainer.pipeline for AUC ({DEMO_DIR} if it is there)")
    given = parser.parse_args(arguments)
    line: dict[str, Any] = {"hardware": hardware()}
    for part in given.only or PARTS:
        _say(f"{part} …")
        line |= _MEASURED[part](given)
    line["targets"] = _held(line)
    text = json.dumps(line)
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(text + "\n")
    print(text)
    return 0


def _steps(_: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = measure_steps()
    sizes = found["sizes"]
    header = ["MiB", *next(iter(sizes.values()))]
    _say(table(header, [[size, *map(str, one.values())] for size, one in sizes.items()]))
    return {
        "reload_ms": {size: one["reload_ms"] for size, one in sizes.items()},
        "reload_gbps": {size: one["reload_gbps"] for size, one in sizes.items()},
        "memcpy_gbps": {size: one["memcpy_gbps"] for size, one in sizes.items()},
        "memcpy_cached_gbps": {size: one["memcpy_cached_gbps"] for size, one in sizes.items()},
        "store_gbps": {size: one["store_gbps"] for size, one in sizes.items()},
        "asked_ms": {size: one["asked_ms"] for size, one in sizes.items()},
        "asked_per_memcpy": ratio_from(sizes, RATIO_FROM_MIB, "asked_per_memcpy"),
        "reload_per_memcpy": ratio_from(sizes, RATIO_FROM_MIB),
        "reload_per_memcpy_cached": ratio_from(sizes, RATIO_FROM_MIB, "reload_per_memcpy_cached"),
        "control_ms": found["control_ms"],
        "control_p50_ms": found["control_ms"]["p50"],
    }


def _remote(_: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = measure_remote()
    sizes = found["sizes"]
    _say(table(["MiB", *next(iter(sizes.values()))], [[size, *map(str, one.values())] for size, one in sizes.items()]))
    return {"remote": found}


def _append(_: argparse.Namespace) -> dict[str, Any]:
    return append_speedup()


def _policies(given: argparse.Namespace) -> dict[str, Any]:
    cases = list(compared(load_profile(given.profile), given.seed))
    rows = [[str(value) for value in case.to_json().values()] for case in cases]
    _say(table(list(cases[0].to_json()), rows))
    return {
        "policy": {name: _hits(case for case in cases if case.policy == name) for name in _names(cases)},
        "recompute_avoided": min(
            case.found.recompute_avoided for case in cases if case.has_dram and case.pages == AVOIDED_PAGES
        ),
        "policies": [case.to_json() for case in cases],
    }


def _int8(given: argparse.Namespace) -> dict[str, Any]:
    trained = given.trained or (DEMO_DIR if (DEMO_DIR / "checkpoint").is_dir() else None)
    found = measure_int8(given.seed, trained)
    _say(table(["MiB on the device", "as is, ms", "int8, ms"], rows(found)))
    return {"int8": found}


def _admission(given: argparse.Namespace) -> dict[str, Any]:
    cases = list(admission.compared(load_profile(given.profile), given.seed))
    rows = [case.to_json() for case in cases]
    _say(table(list(rows[0]), [list(map(str, row.values())) for row in rows]))
    return {"admission": {"gains": admission.gains(cases), "cases": rows}}


def _hits(cases: Iterable[Case]) -> dict[str, float]:
    """Means over the same cases of each policy, so that they can be set side by side."""
    rows = [case.to_json() for case in cases]
    names = ("device_hits", "dram_hits", "recompute_avoided", "work_ms_per_request")
    return {name: round(statistics.mean(float(row[name]) for row in rows), 4) for name in names}  # type: ignore[arg-type]


def _names(cases: Iterable[Case]) -> list[str]:
    return list(dict.fromkeys(case.policy for case in cases))


def _held(line: dict[str, Any]) -> dict[str, str]:
    """Each figure that was measured beside what it is held to."""
    said = {}
    for name, (relation, bound) in TARGETS.items():
        if name in line:
            is_met = line[name] >= bound if relation == ">=" else line[name] <= bound
            said[name] = f"{line[name]:g} {relation} {bound:g}: {'met' if is_met else 'short'}"
    return said


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


_MEASURED: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "steps": _steps,
    "remote": _remote,
    "append": _append,
    "policies": _policies,
    "int8": _int8,
    "admission": _admission,
}


if __name__ == "__main__":
    sys.exit(main())
