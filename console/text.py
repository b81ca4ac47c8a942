"""The waterfall for a terminal: the same lanes and bars, in characters."""

from __future__ import annotations

from collections.abc import Sequence

from console.story import sentence
from console.traces import Span
from console.waterfall import Bar, Waterfall, waterfall_of

WIDTH_LEAST = 60
_LABEL_WIDTH = 34
_FIGURES_WIDTH = 20
_FILLS = {"pre_infer": "▓", "reload": "▓", "compute": "█", "queue": "░", "join": "░", "stage": "▒"}
_FILL = "─"


def text_of(spans: Sequence[Span], width: int) -> str:
    """A trace in lines of at most so many characters; `width` is at least WIDTH_LEAST."""
    drawn = waterfall_of(spans)
    chart = max(WIDTH_LEAST, width) - _LABEL_WIDTH - _FIGURES_WIDTH
    lines = [sentence(spans), f"trace {spans[0].trace_id}  {len(spans)} spans  {drawn.length_ms:.1f} ms", ""]
    lines.append(" " * _LABEL_WIDTH + _ruler(drawn, chart))
    for lane in drawn.lanes:
        lines.append(lane.name)
        lines += [_line(bar, drawn, chart) for bar in lane.bars]
    if drawn.deadline_ms is not None:
        lines += [
            "",
            f"R ranking was due at {drawn.rank_due_ms:.1f} ms, B its budget ends at {drawn.deadline_ms:.1f} ms",
        ]
    return "\n".join(lines) + "\n"


def _line(bar: Bar, drawn: Waterfall, chart: int) -> str:
    mark = "!" if bar.span.is_error else " "
    label = f" {mark}{bar.label}"[: _LABEL_WIDTH - 1].ljust(_LABEL_WIDTH)
    begin = _column(bar.start_ms, drawn, chart)
    end = max(begin + 1, _column(bar.start_ms + bar.length_ms, drawn, chart))
    row = (" " * begin + _FILLS.get(bar.kind, _FILL) * (end - begin)).ljust(chart)
    return f"{label}{row}{bar.start_ms:9.2f} {bar.length_ms:7.2f} ms".rstrip()


def _ruler(drawn: Waterfall, chart: int) -> str:
    """Where ranking was due, and where its budget ends."""
    marks = [" "] * chart
    for at_ms, mark in ((drawn.rank_due_ms, "R"), (drawn.deadline_ms, "B")):
        if at_ms is not None:
            column = _column(at_ms, drawn, chart)
            marks[min(column, chart - 1)] = mark if column < chart else "→"
    return f"{''.join(marks)}{'start':>9} {'length':>7}"


def _column(at_ms: float, drawn: Waterfall, chart: int) -> int:
    """A budget that ends after the trace is off the chart."""
    column = int(at_ms / max(drawn.length_ms, 1e-3) * (chart - 1))
    return column if at_ms > drawn.length_ms else min(column, chart - 1)
