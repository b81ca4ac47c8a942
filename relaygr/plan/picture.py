"""The frontier as SVG, written without a drawing library: instances over requests, and the tail over them by length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite

from relaygr.plan.demand import Demand
from relaygr.plan.device import DeviceModel
from relaygr.plan.load import load_of
from relaygr.plan.sizing import Plan, instance_rate_hz

WIDTH, HEIGHT, GAP = 420, 300, 70
LEFT, TOP = 60, 40
COLOURS = ("#2a78d6", "#eb6834", "#1baf7a", "#4a3aa7")
INK, GRID = "#52514e", "#dddcd6"
POINTS = 40
REACH = 2.0
"""Times the wanted rate, to which the axes go."""
LENGTH_SHARES = (0.25, 0.5, 0.75, 1.0)
"""Quantiles of the lengths that have a line of their own."""
CLIP = 3.0
"""Times the budget, where the axis of the tail ends."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One line."""

    label: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture with its axes."""

    title: str
    across: str
    up: str
    curves: Sequence[Curve]
    limit: float | None = None
    """A horizontal line."""


def frontier(demand: Demand, model: DeviceModel, plan: Plan) -> str:
    """Both panels."""
    rates = [demand.rate_hz * REACH * (step + 1) / POINTS for step in range(POINTS)]
    lines = {tokens: replace(demand, lengths=(tokens,)) for tokens in _lengths(demand)}
    sizes = [Curve("as asked for", _sizes(rates, plan.instance_hz))]
    sizes += [
        Curve(f"all of {tokens}", _sizes(rates, most_hz))
        for tokens, one in lines.items()
        if len(lines) > 1 and (most_hz := instance_rate_hz(one, model))
    ]
    clip_ms = CLIP * demand.slo_ms
    tails = [
        Curve(f"{tokens} tokens", _tails(one, model, rates, plan.instances, clip_ms)) for tokens, one in lines.items()
    ]
    tail = f"P{100 * demand.quantile:g} of ranking, ms"
    panels = (
        Panel("Instances that a load needs", "requests/s", "instances", sizes),
        Panel(f"With {plan.instances} instances", "requests/s", tail, tails, demand.slo_ms),
    )
    return _svg(panels, f"{model.name}: {model.label}")


def _lengths(demand: Demand) -> list[int]:
    lengths = demand.lengths
    return sorted({lengths[min(len(lengths) - 1, int(share * len(lengths)))] for share in LENGTH_SHARES})


def _sizes(rates: Sequence[float], most_hz: float) -> tuple[tuple[float, float], ...]:
    return tuple((rate_hz, max(1.0, -(-rate_hz // most_hz))) for rate_hz in rates)


def _tails(
    demand: Demand, model: DeviceModel, rates: Sequence[float], instances: int, clip_ms: float
) -> tuple[tuple[float, float], ...]:
    found = [(rate_hz, load_of(demand, model, rate_hz / instances).tail_ms) for rate_hz in rates]
    return tuple((rate_hz, tail_ms) for rate_hz, tail_ms in found if isfinite(tail_ms) and tail_ms <= clip_ms)


def _svg(panels: Sequence[Panel], caption: str) -> str:
    width = LEFT + len(panels) * (WIDTH + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{TOP + HEIGHT + 80}" '
        f'font-family="sans-serif" font-size="12" fill="{INK}">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for index, panel in enumerate(panels):
        parts += _panel(panel, LEFT + index * (WIDTH + GAP))
    parts.append(_text(LEFT, TOP + HEIGHT + 66, caption))
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, left: float) -> list[str]:
    points = [point for curve in panel.curves for point in curve.points]
    most_x = max((x for x, _ in points), default=1.0)
    most_y = 1.1 * max([y for _, y in points] + [panel.limit or 0.0, 1e-9])
    place = lambda x, y: (left + x / most_x * WIDTH, TOP + HEIGHT - y / most_y * HEIGHT)  # noqa: E731
    parts = [_text(left, TOP - 12, panel.title), _text(left + WIDTH / 2, TOP + HEIGHT + 34, panel.across)]
    parts.append(_text(left, TOP + HEIGHT + 50, f"up: {panel.up}"))
    for step in range(5):
        x, y = place(most_x * step / 4, most_y * step / 4)
        parts.append(f'<line x1="{left}" x2="{left + WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="{GRID}"/>')
        parts.append(_text(left - 6, y + 4, f"{most_y * step / 4:.4g}", "end"))
        parts.append(_text(x, TOP + HEIGHT + 16, f"{most_x * step / 4:.4g}", "middle"))
    if panel.limit is not None:
        _, y = place(0.0, panel.limit)
        parts.append(f'<line x1="{left}" x2="{left + WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e34948"/>')
    for number, curve in enumerate(panel.curves):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in curve.points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        parts.append(_text(left + 10, TOP + 16 + 15 * number, curve.label, fill=colour))
    return parts


def _text(x: float, y: float, text: str, anchor: str = "start", fill: str = INK) -> str:
    escaped = text.replace("&", "&amp;").replace("<", "&lt;")
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}">{escaped}</text>'
