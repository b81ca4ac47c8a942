"""`relaygr plan`: how many instances a load needs; needs no running cluster.

The size comes from formulas (relaygr.plan). The simulator, which runs the services' own cores, confirms it in a process
of its own, because nothing in this package may know the services.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict, replace
from math import isfinite
from pathlib import Path
from typing import Any

from relaygr.client.commands.report import CommandError, Report, mebibytes, table
from relaygr.plan.demand import Demand, PlanError, lengths_of
from relaygr.plan.device import DeviceModel, device_of, names
from relaygr.plan.picture import frontier
from relaygr.plan.sizing import Plan, size

MIB = 1 << 20
RETURN_SHARE_MOST = 0.85
"""The simulated users come 16 times at most."""
SIMULATE_S = 300.0
FAILED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `plan` takes."""
    text = parser.add_argument
    text("--qps", type=float, required=True, metavar="HZ", help="requests a second, all together")
    text("--length-distribution", required=True, metavar="L", help="lognormal:MEDIAN,SIGMA,MAX, tokens, or a file")
    text("--slo", default="50@0.99", metavar="MS@Q", help="ranking's budget and the quantile that must hold it")
    text("--cost-model", required=True, metavar="M", help=f"a JSON file, or an example: {', '.join(names())}")
    text("--reuse", default="0.6,120,1.0", metavar="S,GAP,SIGMA", help="return share; median gap, s; its log's spread")
    text("--candidates", type=int, default=256, help="items to rank")
    text("--stages", type=float, default=60.0, metavar="MS", help="from a request's arrival until it is ranked")
    text("--overhead", type=float, default=4.0, metavar="MS", help="of a rank beside its device")
    text("--device-mib", type=float, metavar="MIB", help="for psi, of each instance; the cost model's when absent")
    text("--dram-mib", type=float, metavar="MIB", help="for psi, of each host; the cost model's when absent")
    text("--no-simulate", action="store_true", help="formulas only")
    text("--plot", type=Path, metavar="FILE.svg", help="draw the frontier")
    text("--json", action="store_true", help="one JSON document instead of tables")


def run(arguments: argparse.Namespace) -> Report:
    """Size, confirm, tell.

    Raises:
        CommandError: an option that cannot be used, or an objective that nothing holds.
    """
    try:
        demand, model = _demand(arguments), _model(arguments)
        plan = size(demand, model)
    except PlanError as error:
        raise CommandError(str(error)) from error
    simulated = None if arguments.no_simulate else simulate(demand, model, plan)
    if arguments.plot is not None:
        _write(arguments.plot, frontier(demand, model, plan))
    exit_code = 0 if simulated is None or simulated["is_confirmed"] else FAILED
    if arguments.json:
        document = {"plan": plan.to_json(), "cost_model": asdict(model), "simulated": simulated}
        return Report(json.dumps(document), exit_code)
    return Report(_text(demand, model, plan, simulated), exit_code)


def simulate(demand: Demand, model: DeviceModel, plan: Plan) -> dict[str, Any]:
    """What the simulator makes of a size.

    Raises:
        CommandError: it did not come to an end.
    """
    spec = {"demand": asdict(demand), "model": asdict(model), "instances": plan.instances}
    command = [sys.executable, "-m", "sim.planned"]
    try:
        done = subprocess.run(
            command, input=json.dumps(spec), capture_output=True, text=True, timeout=SIMULATE_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"the simulator took more than {SIMULATE_S:g} s; plan with --no-simulate") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing said"])[-1]
        raise CommandError(f"the simulator failed ({last}); plan with --no-simulate")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _demand(arguments: argparse.Namespace) -> Demand:
    slo_ms, quantile = _numbers("--slo", arguments.slo.replace("@", ","), 2, "MS@QUANTILE")
    share, gap_s, spread = _numbers("--reuse", arguments.reuse, 3, "SHARE,GAP_SECONDS,SIGMA")
    _check("--qps", 0 < arguments.qps < 1e7, "must be positive")
    _check("--slo", slo_ms > 0 and 0.5 <= quantile < 1, "needs a positive budget and a quantile from 0.5 to below 1")
    _check("--reuse", 0 <= share <= RETURN_SHARE_MOST, f"the share must be from 0 to {RETURN_SHARE_MOST}")
    _check("--reuse", gap_s > 0 and 0 < spread <= 3, "the gap must be positive and its spread in (0, 3]")
    _check("--candidates", arguments.candidates >= 1, "must be at least 1")
    _check("--stages", arguments.stages >= 0, "must not be negative")
    _check("--overhead", 0 <= arguments.overhead < slo_ms, "must be below the budget of --slo")
    return Demand(
        rate_hz=arguments.qps,
        lengths=lengths_of(arguments.length_distribution),
        candidates=arguments.candidates,
        slo_ms=slo_ms,
        quantile=quantile,
        time_to_rank_ms=arguments.stages,
        overhead_ms=arguments.overhead,
        return_share=share,
        gap_s=gap_s,
        gap_spread=spread,
    )


def _model(arguments: argparse.Namespace) -> DeviceModel:
    model = device_of(arguments.cost_model)
    device_mib, dram_mib = arguments.device_mib, arguments.dram_mib
    if device_mib is not None:
        model = replace(model, device_bytes=_bytes("--device-mib", device_mib))
    if dram_mib is not None:
        model = replace(model, dram_bytes=_bytes("--dram-mib", dram_mib))
    _check(
        "--device-mib", model.device_bytes > 0, "must be given: the cost model does not say how much memory there is"
    )
    return model


def _numbers(option: str, text: str, count: int, wanted: str) -> list[float]:
    try:
        values = [float(word) for word in text.split(",")]
    except ValueError:
        values = []
    _check(option, len(values) == count and all(isfinite(value) for value in values), f"must be {wanted}, not {text!r}")
    return values


def _bytes(option: str, mebi: float) -> int:
    _check(option, isfinite(mebi) and mebi >= 0, "must not be negative")
    return int(mebi * MIB)


def _check(option: str, is_right: bool, text: str) -> None:
    if not is_right:
        raise PlanError(option, text)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise CommandError(f"--plot: {path}: {error.strerror}") from error


def _text(demand: Demand, model: DeviceModel, plan: Plan, simulated: dict[str, Any] | None) -> str:
    load = plan.load
    head = [
        f"{plan.instances} instances on {plan.hosts} hosts of {model.name} ({model.label})",
        *(f"source: {source}" for source in model.sources),
        "",
    ]
    tail = f"P{100 * demand.quantile:g} of ranking, ms"
    rows: list[tuple[str, str, str]] = [
        ("ranked on psi of the device", f"{load.device + load.made:.3f}", _of(simulated, "on_device")),
        ("  of these, made for the request", f"{load.made:.3f}", "-"),
        ("ranked on psi from DRAM", f"{load.dram:.3f}", _of(simulated, "dram")),
        ("ranked in full", f"{load.full:.3f}", _of(simulated, "full")),
        ("survival", f"{load.survival:.3f}", _of(simulated, "survival")),
        ("device busy", f"{load.busy:.3f}", _of(simulated, "device_busy")),
        (tail, f"{load.tail_ms:.1f}", _of(simulated, "tail_ms")),
    ]
    header = ("", "formulas", "simulated") if simulated is not None else ("", "formulas")
    sizes = [
        ("device bytes of an instance, least", mebibytes(plan.device_bytes), mebibytes(model.device_bytes)),
        ("DRAM bytes of a host, for 95 % of returns", mebibytes(plan.dram_bytes), mebibytes(model.dram_bytes)),
    ]
    breaks = [
        (
            margin.what,
            f"{margin.rate_hz:.4g}" if isfinite(margin.rate_hz) else "never",
            _percent(margin.margin),
            margin.then,
        )
        for margin in plan.margins
    ]
    parts = [*head, table(header, [row[: len(header)] for row in rows]), ""]
    parts += [table(("", "needed", "there"), sizes), "", "What gives way first:"]
    parts.append(table(("limit", "at requests/s", "margin", "then"), breaks))
    if simulated is not None:
        verdict = "confirmed" if simulated["is_confirmed"] else "NOT confirmed"
        parts += ["", f"{verdict} by the simulator: {simulated['said']}"]
    return "\n".join(parts)


def _of(simulated: dict[str, Any] | None, name: str) -> str:
    value = simulated.get(name) if simulated is not None else None
    return "-" if value is None else f"{value:g}"


def _percent(margin: float) -> str:
    return f"{100 * margin:+.0f} %" if isfinite(margin) else "-"
