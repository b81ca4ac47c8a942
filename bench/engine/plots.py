"""Pictures of a run, as SVG; the only module that draws.

A kernel keeps its colour in every picture: native blue, torch orange. A picture whose figures the run does not have is
left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from bench.engine.shapes import KERNELS, NATIVE, SHAPES, THREADS, TOKENS, TORCH

COLOURS = {NATIVE: "#2a78d6", TORCH: "#eb6834"}
FULL, DASHED = "-", "--"
PART_COLOURS = ("#2a78d6", "#1baf7a", "#eda100", "#4a3aa7", "#e34948", "#e87ba4", "#008300", "#eb6834")
INK, QUIET, GRID = "#0b0b0b", "#52514e", "#dddcd6"
MS_PER_NS = 1e-6

matplotlib.rcParams.update({"svg.hashsalt": "relaygr", "svg.fonttype": "none", "font.size": 9.0})

Document = Mapping[str, Any]


def draw_all(document: Document, folder: Path, stem: str) -> list[tuple[str, str]]:
    """Write the pictures this run has figures for; (what it shows, file name) of each."""
    pictures = (
        ("Share of the machine's peak by length", "share", draw_share),
        ("Ranking on psi and from nothing by length", "latency", draw_latency),
        ("Where the time of a prefix goes", "parts", draw_parts),
    )
    written = []
    for title, suffix, draw in pictures:
        figure = draw(document)
        if figure is not None:
            name = f"{stem}_{suffix}.svg"
            # Without a date inside, the same run gives the same bytes.
            figure.savefig(folder / name, metadata={"Date": None})
            written.append((title, name))
    return written


def draw_share(document: Document) -> Figure | None:
    """prefix_of_peak over tokens, one panel a model."""
    figure, panels = _panels(document, "share of bf16 product peak")
    for axes, model in panels:
        for cases, kernel, threads in _lines(document, model):
            shares = [case["prefix_of_peak"] for case in cases]
            _line(axes, cases, shares, kernel, FULL if threads == 1 else DASHED, label=f"{kernel}, {_threads(threads)}")
        axes.set_ylim(0, 1)
    return figure


def draw_latency(document: Document) -> Figure | None:
    """rank_ms of 512 candidates and full_ms over tokens, one thread, both logarithmic."""
    figure, panels = _panels(document, "milliseconds, one thread")
    for axes, model in panels:
        for cases, kernel, threads in _lines(document, model):
            if threads != 1:
                continue
            ranks = [case["rank_ms"]["512"] for case in cases]
            _line(axes, cases, ranks, kernel, FULL, label=f"{kernel}: rank on psi")
            _line(axes, cases, [case["full_ms"] for case in cases], kernel, DASHED, label=f"{kernel}: from nothing")
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
    return figure


def draw_parts(document: Document) -> Figure | None:
    """Stacked bars of a prefix by part of a layer, as shares, with the total above."""
    cases = [case for case in document["cases"] if case.get("part_ns") and case["threads"] == 1]
    cases.sort(key=lambda case: (case["model"], case["tokens"]))
    if not cases:
        return None
    parts = list(dict.fromkeys(name for case in cases for name in case["part_ns"]))
    figure = Figure(figsize=(8.5, 4.2), layout="constrained")
    axes = figure.add_subplot()
    places = [place + 0.7 * list(SHAPES).index(case["model"]) for place, case in enumerate(cases)]
    floor = [0.0] * len(cases)
    for index, part in enumerate(parts):
        shares = [case["part_ns"].get(part, 0) / sum(case["part_ns"].values()) for case in cases]
        colour = PART_COLOURS[index % len(PART_COLOURS)]
        axes.bar(places, shares, 0.8, floor, color=colour, edgecolor="white", linewidth=1.0, label=part)
        floor = [low + share for low, share in zip(floor, shares, strict=True)]
    for place, case in zip(places, cases, strict=True):
        total_ms = sum(case["part_ns"].values()) * MS_PER_NS
        axes.text(place, 1.01, f"{total_ms:.3g} ms", ha="center", va="bottom", color=QUIET, fontsize=8)
    axes.set_xticks(places, [f"{case['tokens']}\n{case['model'].partition('_')[0]}" for case in cases])
    axes.set_ylabel("share of the time")
    axes.set_ylim(0, 1.08)
    _quieten(axes)
    figure.legend(loc="outside right upper", frameon=False, reverse=True)
    return figure


def _panels(document: Document, label: str) -> tuple[Figure | None, list[tuple[Axes, str]]]:
    """One panel for each model that was measured, with tokens below; none without cases."""
    models = [model for model in SHAPES if any(case["model"] == model for case in document["cases"])]
    if not models:
        return None, []
    figure = Figure(figsize=(4.4 * len(models), 3.6), layout="constrained")
    panels = figure.subplots(1, len(models), squeeze=False)[0]
    for axes, model in zip(panels, models, strict=True):
        axes.set_title(model, color=INK, fontsize=10)
        axes.set_xscale("log", base=2)
        axes.set_xticks(TOKENS, [str(tokens) for tokens in TOKENS])
        axes.set_xlabel("tokens of the prefix")
        _quieten(axes)
    panels[0].set_ylabel(label)
    return figure, list(zip(panels, models, strict=True))


def _lines(document: Document, model: str) -> Iterator[tuple[Sequence[Mapping[str, Any]], str, int]]:
    for kernel in KERNELS:
        for threads in THREADS:
            wanted = (model, kernel, threads)
            cases = [case for case in document["cases"] if (case["model"], case["kernel"], case["threads"]) == wanted]
            if cases:
                yield sorted(cases, key=lambda case: case["tokens"]), kernel, threads


def _line(
    axes: Axes, cases: Sequence[Mapping[str, Any]], values: Sequence[float], kernel: str, dashes: str, label: str
) -> None:
    tokens = [case["tokens"] for case in cases]
    axes.plot(tokens, values, dashes, color=COLOURS[kernel], marker="o", markersize=4.0, linewidth=2.0, label=label)
    axes.legend(frameon=False, fontsize=8, handlelength=3.5)


def _quieten(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.tick_params(colors=QUIET, which="both", length=0)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.minorticks_off()


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"
