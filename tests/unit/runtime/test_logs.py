import io
import logging
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import format_trace_id

from relaygr.runtime.logs import configure_logging


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    text = io.StringIO()
    configure_logging("router", "info", text)
    yield text
    root.handlers[:] = handlers
    root.setLevel(level)


def test_record_is_one_line_of_pairs(stream: io.StringIO) -> None:
    logging.getLogger("a.b").warning("took %d ms", 3)
    line = stream.getvalue()
    assert line.count("\n") == 1
    assert ' level=warning service=router logger=a.b msg="took 3 ms"\n' in line


def test_traceback_and_line_breaks_stay_on_the_line(stream: io.StringIO) -> None:
    try:
        raise ValueError("x\ny")
    except ValueError:
        logging.getLogger("a").exception("two\nlines")
    line = stream.getvalue()
    assert line.count("\n") == 1
    assert 'msg="two\\nlines"' in line and "Traceback" in line


def test_trace_id_is_there_inside_a_span_only(stream: io.StringIO) -> None:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("t")
    with tracer.start_as_current_span("s") as span:
        logging.getLogger("a").info("inside")
    logging.getLogger("a").info("outside")
    inside, outside = stream.getvalue().splitlines()
    assert f"trace_id={format_trace_id(span.get_span_context().trace_id)}" in inside
    assert "trace_id" not in outside


def test_level_is_kept(stream: io.StringIO) -> None:
    logging.getLogger("a").debug("quiet")
    assert stream.getvalue() == ""
