"""The parts of a page, each a block of Markdown made from the run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.engine.report import table
from bench.engine.summary import number
from bench.load.pool import Pool, plain_pools
from bench.load.schema import FULL, LENGTH, LOSSES, MODES, RATE, RELAY_DRAM, Probe, Run
from bench.load.summary import Interval, ceiling, ceiling_host, device_ms, found, host_ms, summary
from bench.load.verdicts import GOAL_L0_OF_CEILING, SAME, ablations, claims, losses

NONE = "Not measured."
LOSS_TITLES = {
    "cold": "Every user is new, so there is no psi to reuse",
    "short": "Histories that are ranked in full within the limit",
    "overload": "More than the cluster can hold",
}


def interval(value: Interval | None) -> str:
    """With its bounds; one that is not known is a question mark."""
    if not value or value["value"] is None:
        return "-"
    low, high = ("?" if value[end] is None else number(value[end]) for end in ("low", "high"))
    return f"{number(value['value'])} ({low} to {high})"


def claims_block(run: Run) -> str:
    """The three ratios beside what was published, asked and hoped for."""
    header = ["figure", "at", "published", "target", "goal", "measured (95 %)", ""]
    rows = [
        [
            f"`{claim.figure}`",
            claim.where,
            f"up to {claim.published:g}",
            f">= {claim.target:g}",
            "-" if claim.goal is None else f">= {number(claim.goal)}",
            interval(claim.measured),
            f"**{claim.verdict}**" if claim.verdict.startswith("short") else claim.verdict,
        ]
        for claim in claims(run)
    ]
    notes = (
        f"Each is `{RELAY_DRAM}` over `{FULL}` under the same limit. *published*: arXiv 2601.01712, Ascend NPUs and "
        "real queries; targets and goals are this project's own. A question mark is a bound that no probe gives."
    )
    return "\n\n".join((table(header, rows), notes, _ceilings(run)))


def _ceilings(run: Run) -> str:
    told = {"`ceiling_l0`": ceiling(run), "`ceiling_l0_host`": ceiling_host(run)}
    work_ms, other_ms = device_ms(run), host_ms(run)
    return (
        f"What the work allows at L0: {', '.join(f'{name} {number(value)}' for name, value in told.items())}. The "
        f"first is the rate of devices that are never idle ({number(work_ms)} ms of jobs a request, as measured "
        f"alone, with the profile's share of returning users) over the rate of `{FULL}`; the second adds "
        f"{number(other_ms)} ms of processor time a request for everything that is no job, and divides the machine's "
        f"cores by both. The goal at L0 is {GOAL_L0_OF_CEILING:g} of the first."
    )


def missing(run: Run) -> list[str]:
    """What this run does not say."""
    lengths = run.get("lengths", {})
    parts = [f"no {name}" for name in ("config", "hardware", "source", "lengths", "work", "noise") if not run.get(name)]
    for title, name in (("L0", "l0_tokens"), ("L1", "l1_tokens")):
        modes = [mode for mode in MODES if found(run, mode, RATE, lengths.get(name)) is None]  # type: ignore[arg-type]
        parts += [f"no highest rate at {title} of {_listed(modes)}"] if modes else []
    modes = [mode for mode in (FULL, RELAY_DRAM) if found(run, mode, LENGTH) is None]
    parts += [f"no longest history of {_listed(modes)}"] if modes else []
    purposes = {probe.get("purpose") for probe in run.get("probes", [])}
    absent = [purpose for purpose in ("sweep", "overhead", "mix", *LOSSES) if purpose not in purposes]
    return [*parts, f"no probes of {_listed(absent)}"] if absent else parts


def searches_block(run: Run) -> str:
    """What each search found."""
    rows = []
    for search in run.get("searches", []):
        is_rate = search.get("kind") == RATE
        at = f"{search.get('at_tokens', '?')} tokens" if is_rate else f"{search.get('at_rate_hz', 0):g} requests/s"
        bounded = "" if search.get("is_bounded", True) else "the most that was asked for held"
        value = search.get("value")
        what: Interval = {"value": value, "low": search.get("low"), "high": search.get("high")}
        unit = "requests/s" if is_rate else "tokens"
        result = f"{interval(what)} {unit}" if value is not None else "nothing held"
        expected = number(search.get("crossing"))
        rows.append([_mode(search), at, result, expected, str(search.get("probes", "-")), bounded])
    note = (
        "The value is the highest that held over all its probes, with none below it failing. The interval and "
        "*crossing*, where as many requests as allowed are expected to be late, come from a fit to all probes."
    )
    return f"{table(['mode', 'at', 'found (95 %)', 'crossing', 'probes', ''], rows)}\n\n{note}" if rows else NONE


def ablations_block(run: Run) -> str:
    """Each part left out, beside the whole."""
    rows = [
        [f"`{one.mode}`", one.figure, interval(one.found), interval(one.reference), f"**{one.verdict}**"]
        for one in ablations(run)
    ]
    note = f"*{SAME}*: the intervals leave it open, so this run does not show that the part is needed."
    header = ["left out", "by", "without it", f"`{RELAY_DRAM}`", "without it, it is"]
    return f"{table(header, rows)}\n\n{note}" if rows else NONE


def losses_block(run: Run) -> str:
    """Where the relay does not help, or costs."""
    blocks = []
    for purpose in LOSSES:
        probes = [probe for probe in run.get("probes", []) if probe.get("purpose") == purpose]
        places = dict.fromkeys((probe["tokens"], probe["rate_hz"]) for probe in probes)
        said = [line for place in places if (line := losses(run, *place, purpose))]
        body = [probe_table(probes), *said] if probes else [NONE]
        blocks.append("\n\n".join([f"### {LOSS_TITLES[purpose]}", *body]))
    return "\n\n".join(blocks)


def work_block(run: Run) -> str:
    """Jobs measured alone."""
    names = ("full_ms", "pre_infer_ms", "append_ms", "reload_ms", "rank_ms")
    work: Mapping[str, Mapping[str, Any]] = run.get("work", {})  # type: ignore[assignment]
    ordered = sorted(work, key=int)
    rows = [[tokens, *(number(work[tokens].get(name)) for name in names)] for tokens in ordered]
    return table(["tokens", *(f"`{name}`" for name in names)], rows) if rows else NONE


def counts_block(run: Run) -> str:
    """From which tier ranks came, who was admitted and what became of it, of the profile's own traffic."""
    rows = []
    for pool in plain_pools(run):
        survival, reuse = pool.share("survived", "admitted"), pool.share("reused", "returns")
        shares = [_shares(pool.shares(name)) for name in ("tiers", "decisions", "fallbacks", "production")]
        rows.append([f"`{pool.mode}`", str(pool.tokens), f"{pool.rate_hz:g}", number(survival), number(reuse), *shares])
    header = [
        "mode",
        "tokens",
        "requests/s",
        "survival",
        "reuse",
        "tiers",
        "decisions",
        "ranked in full because",
        "psi",
    ]
    return table(header, rows) if rows else NONE


def probes_block(run: Run) -> str:
    """Every probe."""
    return probe_table(run.get("probes", [])) if run.get("probes") else NONE


def probe_table(probes: Iterable[Probe]) -> str:
    """One line a probe, in the order they ran."""
    header = [
        "mode",
        "tokens",
        "requests/s",
        "got",
        "for",
        "requests",
        "rank P50 / P99 / P99.9 ms",
        "end to end P99 ms",
    ]
    rows = []
    for probe in probes:
        rank, whole = probe.get("rank_ms", {}), probe.get("end_to_end_ms", {})
        latency = " / ".join(_figure(rank, name) for name in ("p50", "p99", "p99.9"))
        errors = ", ".join(f"{name} {count}" for name, count in probe.get("errors", {}).items() if count) or "0"
        held = "disturbed" if probe.get("is_disturbed") else "yes" if probe.get("held") else "no"
        # Of a mix, the distribution that lengths were drawn from.
        tokens = str(probe["tokens"]) if isinstance(probe["tokens"], int) else "mixed"
        sizes = [f"`{probe['mode']}`", tokens, f"{probe['rate_hz']:g}", number(probe.get("achieved_hz"))]
        traffic = [str(probe.get("purpose", "-")), str(probe.get("requests", "-"))]
        late = f"{probe.get('late', '-')} / {probe.get('end_to_end_late', '-')}"
        tiers = _shares(Pool(probe["mode"], 0, probe["rate_hz"], [probe]).shares("tiers"))
        rows.append([*sizes, *traffic, latency, _figure(whole, "p99"), late, errors, held, tiers])
    return table([*header, "late rank / end to end", "errors", "held", "tiers"], rows)


def machine_block(run: Run) -> str:
    """Hardware, versions, noise, and the profile."""
    noise = run.get("noise", {})
    is_too_noisy = noise.get("is_too_noisy")
    said = (
        "**This machine was too noisy: do not quote these figures.**"
        if is_too_noisy
        else "The machine was quiet enough."
    )
    if is_too_noisy is None:
        said = "Whether the machine was quiet is not known."
    rows = [[name, str(value)] for name, value in {**run.get("hardware", {}), **run.get("versions", {})}.items()]
    rows += [[f"noise: {name}", json.dumps(value)] for name, value in noise.items()]
    rows += [[f"profile: {name}", json.dumps(value)] for name, value in run.get("config", {}).items()]
    return f"{said}\n\n{table(['', ''], rows)}" if rows else said


def summary_block(run: Run) -> str:
    """The last line of the run."""
    return f"```json\n{json.dumps(summary(run))}\n```"


def _shares(shares: Mapping[str, float] | None) -> str:
    if not shares:
        return "-"
    return ", ".join(f"{name} {number(100 * share)} %" for name, share in shares.items() if share)


def _figure(values: Mapping[str, Any], name: str) -> str:
    return number(values.get(name))


def _mode(search: Mapping[str, Any]) -> str:
    return f"`{search.get('mode', '?')}`"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
