"""Draws a trace: one page, no script, lanes by service, and one sentence that says what happened.

Source: design, section 7 (tracing).
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from demo.story import Story, sentence, story_of
from demo.traces import Span
from relaygr.telemetry import names

__all__ = ["index_page", "sentence", "trace_page"]

_WIDTH = 1180
_LABEL_WIDTH = 150
_ROW_HEIGHT = 22
_LANE_GAP = 10
_TICKS = 8
_CHARACTER_WIDTH = 6.2
_LANE_ORDER = ("client", "demo", "trigger", "router", "ranker", "expander")
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


@dataclass(frozen=True)
class _Bar:
    span: Span
    row: int


@dataclass(frozen=True)
class _Lane:
    name: str
    bars: tuple[_Bar, ...]
    rows: int


def trace_page(spans: Sequence[Span]) -> str:
    """A self-contained page of one trace."""
    story = story_of(spans)
    rows = "\n".join(_table_row(span, story.start_unix_ns) for span in spans)
    return _page(
        f"Trace {spans[0].trace_id}",
        f"<p><b>{html.escape(sentence(spans))}</b></p>\n"
        f'<p class="mono">{spans[0].trace_id} &middot; {len(spans)} spans &middot; '
        f'{_ms(story.end_unix_ns - story.start_unix_ns)} &middot; <a href="index.html">all traces</a></p>\n'
        f"{_drawing(spans, story)}\n"
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


def _drawing(spans: Sequence[Span], story: Story) -> str:
    lanes = _lanes(spans)
    height = sum(lane.rows * _ROW_HEIGHT + _LANE_GAP for lane in lanes) + 30
    length_ns = max(1, story.end_unix_ns - story.start_unix_ns)
    scale = (_WIDTH - _LABEL_WIDTH - 20) / length_ns
    parts = [f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="Waterfall of the trace">']
    for tick in range(_TICKS + 1):
        x = _LABEL_WIDTH + tick / _TICKS * length_ns * scale
        parts.append(f'<line x1="{x:.1f}" y1="20" x2="{x:.1f}" y2="{height - 6}" stroke="#e4e8ee"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="14">{_ms(tick * length_ns // _TICKS)}</text>')
    positions: dict[str, tuple[float, float, float]] = {}
    top = 24.0
    for lane in lanes:
        parts.append(f'<text class="lane" x="8" y="{top + 15}">{html.escape(lane.name)}</text>')
        for bar in lane.bars:
            x = _LABEL_WIDTH + (bar.span.start_unix_ns - story.start_unix_ns) * scale
            width = max(1.5, (bar.span.end_unix_ns - bar.span.start_unix_ns) * scale)
            y = top + bar.row * _ROW_HEIGHT
            positions[bar.span.span_id] = (x, width, y + (_ROW_HEIGHT - 5) / 2)
            parts.append(_bar(bar.span, x, y, width))
        top += lane.rows * _ROW_HEIGHT + _LANE_GAP
        parts.append(f'<line x1="0" y1="{top - 5}" x2="{_WIDTH}" y2="{top - 5}" stroke="#e4e8ee"/>')
    parts.extend(_links(spans, positions, story))
    parts.append("</svg>")
    return "\n".join(parts)


def _bar(span: Span, x: float, y: float, width: float) -> str:
    colour = "#b3261e" if span.is_error else _COLOURS.get(_lane_kind(span), _COLOUR_OTHER)
    label = f"{_name_of(span)}  {_ms(span.end_unix_ns - span.start_unix_ns)}"
    # The label stands in the bar, or right of it, or left of it where the drawing ends.
    needed = _CHARACTER_WIDTH * len(label)
    if width > needed:
        at, anchor, fill = x + 6, "start", "#ffffff"
    elif _WIDTH - x - width - 6 > needed:
        at, anchor, fill = x + width + 4, "start", "#1d2530"
    else:
        at, anchor, fill = x - 4, "end", "#1d2530"
    tip = "\n".join(f"{key} = {value}" for key, value in sorted(span.attributes.items()))
    return (
        f'<g><title>{html.escape(label)}\n{html.escape(tip)}</title><rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
        f'height="{_ROW_HEIGHT - 6}" rx="2" fill="{colour}" opacity="0.85"/>'
        f'<text x="{at:.1f}" y="{y + 12:.1f}" text-anchor="{anchor}" style="fill:{fill}">'
        f"{html.escape(label)}</text></g>"
    )


def _links(spans: Sequence[Span], positions: dict[str, tuple[float, float, float]], story: Story) -> list[str]:
    """Lines from what made psi to what used it; from the end of the production, not of the call that asked for it."""
    drawn = []
    made = {story.production.parent_span_id: story.production.span_id} if story.production else {}
    for span in spans:
        for link in span.links:
            if link.span_id in positions:
                x, width, y = positions[made.get(link.span_id, link.span_id)]
                to_x, _, to_y = positions[span.span_id]
                drawn.append(
                    f'<path d="M{x + width:.1f},{y:.1f} C{x + width + 30:.1f},{y:.1f} {to_x - 30:.1f},{to_y:.1f} '
                    f'{to_x:.1f},{to_y:.1f}" fill="none" stroke="#1d2530" stroke-dasharray="4 3" opacity="0.6"/>'
                )
    return drawn


def _lanes(spans: Sequence[Span]) -> list[_Lane]:
    groups: dict[str, list[Span]] = {}
    for span in spans:
        groups.setdefault(span.instance or span.service, []).append(span)

    def rank(name: str) -> tuple[int, str]:
        kind = _lane_kind(groups[name][0])
        return (_LANE_ORDER.index(kind) if kind in _LANE_ORDER else len(_LANE_ORDER), name)

    return [_packed(name, groups[name]) for name in sorted(groups, key=rank)]


def _packed(name: str, spans: Sequence[Span]) -> _Lane:
    # One row for each span, in order of start: labels never overlap, and a race reads top down.
    bars = tuple(_Bar(span, row) for row, span in enumerate(spans))
    return _Lane(name=name, bars=bars, rows=len(bars))


def _lane_kind(span: Span) -> str:
    return span.service.removeprefix("relaygr-").split("-")[0]


def _table_row(span: Span, start_unix_ns: int) -> str:
    attributes = "<br>".join(f"{html.escape(k)} = {html.escape(str(v))}" for k, v in sorted(span.attributes.items()))
    links = "".join(
        f'<br>follows <a href="{link.trace_id}.html">{link.trace_id[:8]}/{link.span_id}</a>' for link in span.links
    )
    mark = ' class="error"' if span.is_error else ""
    return (
        f"<tr{mark}><td>{html.escape(span.instance or span.service)}</td><td>{html.escape(_name_of(span))}</td>"
        f'<td class="number">{_ms(span.start_unix_ns - start_unix_ns)}</td>'
        f'<td class="number">{_ms(span.end_unix_ns - span.start_unix_ns)}</td>'
        f'<td class="mono">{attributes}{links}</td></tr>'
    )


def _name_of(span: Span) -> str:
    """The span's name without what all names share; of a stage, the stage's own."""
    return str(span.attributes.get(names.ATTR_RECOMMEND_STAGE, "")) or span.name.removeprefix("relaygr.").removeprefix(
        "v1."
    )


def _ms(length_ns: int) -> str:
    return f"{length_ns / 1e6:.2f} ms"
