"""Prediction and measurement side by side, as a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CODE = {
    True: "the cores that are simulated are the same",
    False: "the cores that are simulated are later ones, so that errors hold what was changed since",
    None: "whether the simulated cores are the same cannot be told",
}


def table(found: Mapping[str, Any]) -> str:
    """Markdown."""
    lines = [
        f"# Predicted and measured: {found.get('report', '')}",
        "",
        "Each cell is `measured / predicted`. Predictions are of `python -m sim.fidelity`; `sim/measured.py` says what"
        " they take from the run and what not.",
        "",
        f"`throughput_err` {found['throughput_err']} (worst {found['throughput_err_max']}, aimed at: 0.15), `p99_err`"
        f" {found['p99_err']} (median {found['p99_err_median']}, worst {found['p99_err_max']}, aimed at: 0.25): means"
        " of the absolute relative errors below.",
        "",
        f"Measured at commit {str(found.get('measured_commit'))[:12]}; {_CODE[found.get('is_same_code')]}.",
        "",
        "## Highest rate under the objective, requests/s",
        "",
        "| mode | tokens | crossing | error | highest that held | measured interval (95 %) | within |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in found["throughput_under_slo_hz"]:
        low, high = one["measured_interval_hz"]
        lines.append(
            f"| `{one['mode']}` | {one['tokens']} | {_pair(one['crossing_hz'])} | {one['error']:+.3f} | "
            f"{_pair(one['value_hz'])} | {low} to {high} | {'yes' if one['is_within'] else 'no'} |"
        )
    lines += [
        "",
        "## Ranking at each probed rate",
        "",
        "| mode | tokens | requests/s | P50 ms | P99 ms | error | late | device | DRAM | joined | full |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in found["p99_at_rates_ms"]:
        tiers = " | ".join(_pair(one["tiers"][tier]) for tier in ("DEVICE", "DRAM", "JOINED", "FULL"))
        lines.append(
            f"| `{one['mode']}` | {one['tokens']} | {one['rate_hz']} | {_pair(one['p50_ms'])} | "
            f"{_pair(one['p99_ms'])} | {one['p99_error']:+.3f} | {_pair(one['late'])} | {tiers} |"
        )
    return "\n".join(lines) + "\n"


def _pair(values: list[float]) -> str:
    return " / ".join("-" if value is None else f"{value:g}" for value in values)
