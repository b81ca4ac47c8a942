"""Which traces are ready, and that what is kept is bounded."""

from console.traces import Link, Span, TraceBook
from tests.unit.console.example import span


def book(**more) -> TraceBook:
    return TraceBook(**({"traces_max": 3, "spans_max": 4, "quiet_ns": 100} | more))


def test_a_trace_is_written_once_when_it_has_a_root_and_went_quiet():
    traces = book()
    traces.add([span("child", "root")], 0)
    assert not traces.due(1000).written, "no root yet"
    traces.add([span("root")], 1000)
    assert not traces.due(1099).written, "not quiet yet"
    assert [one.span_id for one in traces.due(1100).written["t1"]] == ["child", "root"]
    assert not traces.due(2000).written


def test_a_straggler_has_its_trace_written_again():
    traces = book()
    traces.add([span("root")], 0)
    assert traces.due(100).written
    traces.add([span("late", "root", start=5, end=6)], 200)
    assert len(traces.due(300).written["t1"]) == 2


def test_the_oldest_traces_are_given_up_beyond_the_maximum():
    traces = book()
    for number in range(5):
        traces.add([span("root", trace=f"t{number}")], number)
        traces.check()
    due = traces.due(1000)
    assert due.deleted == ("t0", "t1")
    assert sorted(due.written) == ["t2", "t3", "t4"]


def test_spans_beyond_the_maximum_are_counted_and_dropped():
    traces = book()
    traces.add([span(str(number)) for number in range(6)], 0)
    traces.check()
    assert traces.dropped_spans == 2
    assert len(traces.due(100).written["t1"]) == 4


def test_a_span_survives_the_file():
    one = span("a", links=(Link(trace_id="t0", span_id="b"),), attributes={"x": 1})
    assert Span.from_json(one.to_json()) == one


def test_what_comes_late_for_a_trace_that_was_given_up_pushes_out_no_other():
    traces = book()
    for number in range(5):
        traces.add([span(f"s{number}", trace=f"t{number}")], number)
    traces.add([span("late", trace="t0"), span("later", trace="t1")], 9)
    traces.check()
    assert sorted(traces.due(1000).written) == ["t2", "t3", "t4"]
    assert traces.dropped_spans == 2
