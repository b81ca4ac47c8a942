"""One-line key=value logs that carry the trace id, and with a warning what to do about it."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

from opentelemetry import trace

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-:/+@%,")

_NEXT_STEP = "next_step"


class KeyValueFormatter(logging.Formatter):
    """time=... level=... service=... trace_id=... span_id=... logger=... msg="..." [next="..."] [error="..."]."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """One line; line breaks are escaped, a traceback included."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        pairs = {"time": moment, "level": record.levelname.lower(), "service": self._service}
        span_context = trace.get_current_span().get_span_context()
        if span_context.is_valid:
            pairs["trace_id"] = trace.format_trace_id(span_context.trace_id)
            pairs["span_id"] = trace.format_span_id(span_context.span_id)
        pairs["logger"] = record.name
        pairs["msg"] = record.getMessage()
        if step := getattr(record, _NEXT_STEP, ""):
            pairs["next"] = step
        if record.exc_info:
            pairs["error"] = self.formatException(record.exc_info)
        return " ".join(f"{key}={_quoted(value)}" for key, value in pairs.items())


def next_step(text: str) -> dict[str, str]:
    """What whoever reads a warning or an error should do, for the record's `extra`; "nothing: ..." when it passes."""
    return {_NEXT_STEP: text}


def configure_logging(service: str, level: str = "INFO", stream: TextIO | None = None) -> None:
    """Send all logs to standard error in this form; for a process's entry point."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(KeyValueFormatter(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def _quoted(value: str) -> str:
    return value if value and _PLAIN.issuperset(value) else json.dumps(value, ensure_ascii=False)
