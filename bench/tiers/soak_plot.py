"""Memory, occupancy and rates of a soak over time, as one SVG; the only module of the soak that draws."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.tiers.soak_samples import Sample

COLOURS = ("#2a78d6", "#1baf7a", "#eb6834", "#4a3aa7", "#eda100", "#e87ba4", "#008300")
RATES = ("rank_device", "rank_dram", "rank_joined", "full_absent", "evicted_space", "spills_stored")

matplotlib.rcParams.update({"svg.hashsalt": "relaygr", "svg.fonttype": "none", "font.size": 9.0})


def draw(samples: Sequence[Sample], path: Path) -> None:
    """Write the picture."""
    figure = Figure(figsize=(8.0, 10.0), layout="constrained")
    panels = figure.subplots(4, 1, sharex=True)
    _memory(panels[0], samples)
    _lines(panels[1], samples, "used share", lambda sample: sample.seen, " used share")
    panels[1].set_ylim(0, 1.05)
    _lines(panels[2], samples, "held", lambda sample: {name: float(value) for name, value in sample.held.items()})
    panels[2].set_yscale("symlog")
    _rates(panels[3], samples)
    panels[3].set_xlabel("seconds")
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#dddcd6", linewidth=0.6)
        axes.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def _memory(axes: Axes, samples: Sequence[Sample]) -> None:
    """A line for each life: where one ends, a process was killed."""
    lives: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for sample in samples:
        for one in sample.processes:
            lives.setdefault((one.name, one.pid), []).append((sample.at_s, one.anonymous_mb))
    names = list(dict.fromkeys(name for name, _ in lives))
    labelled = set()
    for (name, _), points in lives.items():
        label = None if name in labelled else name
        labelled.add(name)
        axes.plot(*zip(*points, strict=True), color=COLOURS[names.index(name) % len(COLOURS)], label=label)
    axes.set_ylabel("allocated memory, MB")


def _lines(
    axes: Axes, samples: Sequence[Sample], label: str, read: Callable[[Sample], dict[str, float]], ending: str = ""
) -> None:
    names = dict.fromkeys(name for sample in samples for name in read(sample) if name.endswith(ending))
    for number, name in enumerate(names):
        points = [(sample.at_s, read(sample)[name]) for sample in samples if name in read(sample)]
        axes.plot(*zip(*points, strict=True), color=COLOURS[number % len(COLOURS)], label=name.removesuffix(ending))
    axes.set_ylabel(label)


def _rates(axes: Axes, samples: Sequence[Sample]) -> None:
    """Counters of all rankers, a second; nothing where one has begun anew."""
    for number, name in enumerate(RATES):
        points = []
        for before, after in itertools.pairwise(samples):
            grown = _sum(after, name) - _sum(before, name)
            if grown >= 0:
                points.append((after.at_s, grown / max(0.1, after.at_s - before.at_s)))
        if points:
            axes.plot(*zip(*points, strict=True), color=COLOURS[number], label=name)
    axes.set_ylabel("events a second")


def _sum(sample: Sample, counter: str) -> float:
    return sum(value for name, value in sample.seen.items() if name.endswith(f" {counter}"))
