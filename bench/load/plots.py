"""Pictures of a run, as SVG; the only module of the load benchmark that draws.

A mode keeps its colour in every picture. A picture whose figures the run does not have is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from bench.load.estimate import wilson_interval
from bench.load.pool import Pool, operating_points, plain_pools, searched_lengths
from bench.load.schema import FULL, MODES, RATE, Run, Search

COLOURS = dict(zip(MODES, ("#eb6834", "#1baf7a", "#2a78d6", "#4a3aa7", "#eda100", "#e87ba4", "#008300"), strict=True))
PART_COLOURS = ("#2a78d6", "#1baf7a", "#eda100", "#4a3aa7", "#e34948", "#e87ba4", "#008300", "#eb6834", "#8a8984")
INK, QUIET, GRID = "#0b0b0b", "#52514e", "#dddcd6"
QUANTILES = ("p50", "p99", "p99.9")
TOTAL = "total"

matplotlib.rcParams.update({"svg.hashsalt": "relaygr", "svg.fonttype": "none", "font.size": 9.0})


def draw_all(run: Run, folder: Path) -> list[tuple[str, str]]:
    """Write the pictures this run has figures for; (what it shows, file name) of each."""
    pictures: tuple[tuple[str, str, Callable[[Run], Figure | None]], ...] = (
        ("Highest rate that holds the limit, by length", "throughput", draw_throughput),
        ("Latency of ranking by rate", "latency", draw_latency),
        ("From which tier ranks came", "tiers", lambda run: draw_shares(run, "tiers")),
        ("Admitted psi that was there for its rank, by rate", "survival", draw_survival),
        ("What the trigger decided", "decisions", lambda run: draw_shares(run, "decisions")),
        ("Where the milliseconds of a rank go", "stages", draw_stages),
        ("Processor time by process", "cpu", draw_cpu),
    )
    written = []
    for title, name, draw in pictures:
        figure = draw(run)
        if figure is not None:
            # Without a date inside, the same run gives the same bytes.
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
            written.append((title, f"{name}.svg"))
    return written


def draw_throughput(run: Run) -> Figure | None:
    """Requests/s over tokens with 95 % intervals, one line a mode; an arrow where the search reached its most."""
    searches = [one for one in run.get("searches", []) if one.get("kind") == RATE and one.get("value")]
    if not searches:
        return None
    figure, axes = _figure("requests/s within the limit", "tokens of the history")
    for mode in MODES:
        found = sorted((one for one in searches if one["mode"] == mode), key=lambda one: one["at_tokens"])
        if found:
            _rates(axes, mode, found)
    axes.set_yscale("log")
    lengths = sorted({one["at_tokens"] for one in searches})
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [str(tokens) for tokens in lengths])
    _plain_logarithm(axes)
    axes.legend(frameon=False, fontsize=8)
    return figure


def _rates(axes: Axes, mode: str, found: Sequence[Search]) -> None:
    tokens, values = [one["at_tokens"] for one in found], [one["value"] or 0.0 for one in found]
    down = [value - (one.get("low") or value) for value, one in zip(values, found, strict=True)]
    up = [(one.get("high") or value) - value for value, one in zip(values, found, strict=True)]
    axes.errorbar(tokens, values, (down, up), color=COLOURS[mode], marker="o", markersize=4, capsize=3, label=mode)
    for place, value, one in zip(tokens, values, found, strict=True):
        if not one.get("is_bounded", True):
            axes.annotate("", (place, value * 1.25), (place, value), arrowprops={"color": COLOURS[mode], "width": 1})


def draw_latency(run: Run) -> Figure | None:
    """P50, P99 and P99.9 of ranking over rate, a row for each length, with the limit."""
    swept = [pool for pool in _at_searched(run) if all(name in _rank_ms(pool) for name in QUANTILES)]
    lengths = sorted({pool.tokens for pool in swept})
    if not lengths:
        return None
    figure = Figure(figsize=(9.0, 2.9 * len(lengths)), layout="constrained")
    rows = figure.subplots(len(lengths), len(QUANTILES), squeeze=False, sharey="row")
    limit_ms = run.get("config", {}).get("slo", {}).get("rank_ms")
    for row, tokens in zip(rows, lengths, strict=True):
        for axes, quantile in zip(row, QUANTILES, strict=True):
            _latencies(axes, [pool for pool in swept if pool.tokens == tokens], quantile)
            if limit_ms:
                axes.axhline(limit_ms, color=INK, linewidth=1.0, linestyle="--")
            axes.set_title(f"{quantile.upper()}, {tokens} tokens", color=INK, fontsize=10)
            axes.set_xlabel("requests/s")
            _plain_logarithm(axes)
        row[0].set_ylabel("milliseconds of ranking")
    handles = {
        label: handle for axes in rows.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", frameon=False)
    return figure


def _latencies(axes: Axes, pools: Sequence[Pool], quantile: str) -> None:
    for mode in MODES:
        found = sorted((pool for pool in pools if pool.mode == mode), key=lambda pool: pool.rate_hz)
        rates, values = [pool.rate_hz for pool in found], [_rank_ms(pool)[quantile] for pool in found]
        if found:
            axes.plot(rates, values, color=COLOURS[mode], marker="o", markersize=3.5, linewidth=1.6, label=mode)
    axes.set_yscale("log")
    _quieten(axes)


def _rank_ms(pool: Pool) -> dict[str, float]:
    """Mean over the probes at one rate."""
    found = [probe.get("rank_ms", {}) for probe in pool.probes]
    return {
        name: sum(one[name] for one in found) / len(found)  # type: ignore[literal-required]
        for name in QUANTILES
        if all(name in one for one in found)
    }


def draw_shares(run: Run, name: str) -> Figure | None:
    """Of tiers or decisions: stacked shares of each mode at its rate."""
    points = [(point, shares) for point in operating_points(run) if (shares := point.shares(name))]
    return _stacks("share of the requests", points)


def draw_stages(run: Run) -> Figure | None:
    """Stacked means of each stage of a rank, of each mode at its rate."""
    points = []
    for point in operating_points(run):
        stages = {name: value for name, value in point.stages_ms().items() if name != TOTAL}
        if stages:
            points.append((point, stages))
    return _stacks("mean milliseconds", points)


def draw_cpu(run: Run) -> Figure | None:
    """Stacked cores of each process, of each mode at its rate."""
    return _stacks("cores", [(point, shares) for point in operating_points(run) if (shares := point.cpu_share())])


def draw_survival(run: Run) -> Figure | None:
    """Survival with 95 % intervals over rate, of the modes that relay."""
    relayed = [pool for pool in _at_searched(run) if pool.mode != FULL and pool.total("admitted")]
    if not relayed:
        return None
    figure, axes = _figure("share of admitted psi that was there", "requests/s", width=7.6)
    for (mode, tokens), found in _grouped(relayed).items():
        values = [pool.share("survived", "admitted") or 0.0 for pool in found]
        bounds = [wilson_interval(pool.total("survived"), pool.total("admitted")) for pool in found]
        down = [value - low for value, (low, _) in zip(values, bounds, strict=True)]
        up = [high - value for value, (_, high) in zip(values, bounds, strict=True)]
        rates, label = [pool.rate_hz for pool in found], f"{mode}, {tokens} tokens"
        marker = "o" if tokens == relayed[0].tokens else "s"
        axes.errorbar(
            rates, values, (down, up), color=COLOURS[mode], marker=marker, markersize=4, capsize=3, label=label
        )
    axes.set_ylim(top=1.005)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def _at_searched(run: Run) -> list[Pool]:
    """A search for the longest history probes each length once: those are left out."""
    lengths = searched_lengths(run)
    return [pool for pool in plain_pools(run) if pool.tokens in lengths]


def _grouped(pools: Sequence[Pool]) -> dict[tuple[str, int], list[Pool]]:
    found: dict[tuple[str, int], list[Pool]] = {}
    for pool in sorted(pools, key=lambda pool: (MODES.index(pool.mode), pool.tokens, pool.rate_hz)):
        found.setdefault((pool.mode, pool.tokens), []).append(pool)
    return found


def _stacks(label: str, points: Sequence[tuple[Pool, Mapping[str, float]]]) -> Figure | None:
    """A bar for each point, with its mode, length and rate below."""
    if not points:
        return None
    figure = Figure(figsize=(max(5.0, 1.05 * len(points) + 2.5), 3.8), layout="constrained")
    axes = figure.add_subplot()
    floor = [0.0] * len(points)
    for index, part in enumerate(dict.fromkeys(name for _, values in points for name in values)):
        heights = [values.get(part, 0.0) for _, values in points]
        colour = PART_COLOURS[index % len(PART_COLOURS)]
        axes.bar(range(len(points)), heights, 0.75, floor, color=colour, edgecolor="white", linewidth=0.8, label=part)
        floor = [low + height for low, height in zip(floor, heights, strict=True)]
    names = [f"{point.mode}\n{point.tokens}\n{point.rate_hz:g}/s" for point, _ in points]
    axes.set_xticks(range(len(points)), names, fontsize=8)
    axes.set_ylabel(label)
    _quieten(axes)
    figure.legend(loc="outside right upper", frameon=False, reverse=True)
    return figure


def _figure(label: str, below: str, width: float = 5.6) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, 3.8), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(below)
    axes.set_ylabel(label)
    _quieten(axes)
    return figure, axes


def _plain_logarithm(axes: Axes) -> None:
    """Plain numbers beside a logarithmic axis."""
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _quieten(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.tick_params(colors=QUIET, which="both", length=0)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
