"""Draws a trace into a file: one page, no script, lanes by service, and one sentence that says what happened.

For a folder that outlives the console, and to pass on; the live page is in static/.

Source: design, section 7 (tracing).
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from console.story import sentence
from console.traces import Span
from console.waterfall import Bar, Waterfall, label_of, lane_kind, waterfall_of

_WIDTH = 1180
_LABEL_WIDTH = 150
_ROW_HEIGHT = 22
_LANE_GAP = 10
_TICKS = 8
_CHARACTER_WIDTH = 6.2
_COLOURS = {
    "client": "#6b7a8f",
    "trigger": "#c98a1b",
    "router": "#3f7fbf",
    "ranker": "#3c9a5f",
    "expander": "#8d5fb3",
}
_COLOUR_OTHER = "#777777"

_STYLE = """
body{font:14px/1.45 system-ui,sans-serif;margin:24px auto;max-width:1200px;padding:0 12px;color:#1d2530;background:#fff}
h1{font-size:19px;margin:0 0 4px} p{margin:4px 0 14px} code,.mono{font-family:ui-monospace,monospace;font-size:12px}
svg{width:100%;height:auto;border:1px solid #d7dde5;border-radius:6px;background:#fbfcfd} a{color:#2a62a5}
svg text{font:11px system-ui,sans-serif;fill:#1d2530} svg .lane{font-weight:600} svg .tick{fill:#7a8594}
table{border-collapse:collapse;width:100%;margin-top:18px} td,th{text-align:left;vertical-align:top;padding:4px 8px}
tr{border-bottom:1px solid #e4e8ee} td.number{text-align:right;white-space:nowrap} .error{color:#b3261e}
"""


def trace_page(spans: Sequence[Span]) -> str:
    """A self-contained page of one trace."""
    drawn = waterfall_of(spans)
    rows = "\n".join(_table_row(span, drawn.story.start_unix_ns) for span in spans)
    return _page(
        f"Trace {spans[0].trace_id}",
        f"<p><b>{html.escape(sentence(spans))}</b></p>\n"
        f'<p class="mono">{spans[0].trace_id} &middot; {len(spans)} spans &middot; '
        f'{drawn.length_ms:.2f} ms &middot; <a href="index.html">all traces</a></p>\n'
        f"{_drawing(drawn)}\n"
        f"<table><tr><th>Service</th><th>Span</th><th>Start</th><th>Length</th><th>Attributes</th></tr>\n{rows}</table>",
    )


def index_page(entries: Sequence[tuple[str, str]]) -> str:
    """A list of traces: id and sentence, newest first."""
    rows = "\n".join(
        f'<tr><td class="mono"><a href="{trace_id}.html">{trace_id}</a></td><td>{html.escape(text)}</td></tr>'
        for trace_id, text in entries
    )
    return _page("Traces", f"<p>{len(entries)} requests, newest first.</p>\n<table>{rows}</table>")


def _page(title: str, body: str) -> str:
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>{html.escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def _drawing(drawn: Waterfall) -> str:
    height = sum(len(lane.bars) * _ROW_HEIGHT + _LANE_GAP for lane in drawn.lanes) + 30
    length_ms = max(1e-3, drawn.length_ms)
    scale = (_WIDTH - _LABEL_WIDTH - 20) / length_ms
    parts = [f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="Waterfall of the trace">']
    for tick in range(_TICKS + 1):
        x = _LABEL_WIDTH + tick / _TICKS * length_ms * scale
        parts.append(f'<line x1="{x:.1f}" y1="20" x2="{x:.1f}" y2="{height - 6}" stroke="#e4e8ee"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="14">{tick * length_ms / _TICKS:.2f} ms</text>')
    if drawn.deadline_ms is not None and drawn.deadline_ms <= length_ms:
        x = _LABEL_WIDTH + drawn.deadline_ms * scale
        parts.append(f'<line x1="{x:.1f}" y1="20" x2="{x:.1f}" y2="{height - 6}" stroke="#b3261e" stroke-width="2"/>')
    positions: dict[str, tuple[float, float, float]] = {}
    top = 24.0
    for lane in drawn.lanes:
        parts.append(f'<text class="lane" x="8" y="{top + 15}">{html.escape(lane.name)}</text>')
        for row, bar in enumerate(lane.bars):
            x, width = _LABEL_WIDTH + bar.start_ms * scale, max(1.5, bar.length_ms * scale)
            y = top + row * _ROW_HEIGHT
            positions[bar.span.span_id] = (x, width, y + (_ROW_HEIGHT - 5) / 2)
            parts.append(_bar(bar, x, y, width))
        top += len(lane.bars) * _ROW_HEIGHT + _LANE_GAP
        parts.append(f'<line x1="0" y1="{top - 5}" x2="{_WIDTH}" y2="{top - 5}" stroke="#e4e8ee"/>')
    parts.extend(_links(drawn, positions))
    parts.append("</svg>")
    return "\n".join(parts)


def _bar(bar: Bar, x: float, y: float, width: float) -> str:
    colour = "#b3261e" if bar.span.is_error else _COLOURS.get(lane_kind(bar.span), _COLOUR_OTHER)
    label = f"{bar.label}  {bar.length_ms:.2f} ms"
    # The label stands in the bar, or right of it, or left of it where the drawing ends.
    needed = _CHARACTER_WIDTH * len(label)
    if width > needed:
        at, anchor, fill = x + 6, "start", "#ffffff"
    elif _WIDTH - x - width - 6 > needed:
        at, anchor, fill = x + width + 4, "start", "#1d2530"
    else:
        at, anchor, fill = x - 4, "end", "#1d2530"
    tip = "\n".join(f"{key} = {value}" for key, value in sorted(bar.span.attributes.items()))
    return (
        f'<g><title>{html.escape(label)}\n{html.escape(tip)}</title><rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
        f'height="{_ROW_HEIGHT - 6}" rx="2" fill="{colour}" opacity="0.85"/>'
        f'<text x="{at:.1f}" y="{y + 12:.1f}" text-anchor="{anchor}" style="fill:{fill}">'
        f"{html.escape(label)}</text></g>"
    )


def _links(drawn: Waterfall, positions: dict[str, tuple[float, float, float]]) -> list[str]:
    """Lines from what made psi to what used it."""
    lines = []
    for arrow in drawn.arrows:
        if arrow.from_span_id in positions:
            x, width, y = positions[arrow.from_span_id]
            to_x, _, to_y = positions[arrow.to_span_id]
            lines.append(
                f'<path d="M{x + width:.1f},{y:.1f} C{x + width + 30:.1f},{y:.1f} {to_x - 30:.1f},{to_y:.1f} '
                f'{to_x:.1f},{to_y:.1f}" fill="none" stroke="#1d2530" stroke-dasharray="4 3" opacity="0.6"/>'
            )
    return lines


def _table_row(span: Span, start_unix_ns: int) -> str:
    attributes = "<br>".join(f"{html.escape(k)} = {html.escape(str(v))}" for k, v in sorted(span.attributes.items()))
    links = "".join(
        f'<br>follows <a href="{link.trace_id}.html">{link.trace_id[:8]}/{link.span_id}</a>' for link in span.links
    )
    mark = ' class="error"' if span.is_error else ""
    return (
        f"<tr{mark}><td>{html.escape(span.instance or span.service)}</td><td>{html.escape(label_of(span))}</td>"
        f'<td class="number">{_ms(span.start_unix_ns - start_unix_ns)}</td>'
        f'<td class="number">{_ms(span.end_unix_ns - span.start_unix_ns)}</td>'
        f'<td class="mono">{attributes}{links}</td></tr>'
    )


def _ms(length_ns: int) -> str:
    return f"{length_ns / 1e6:.2f} ms"
