from demo.story import sentence, story_of
from demo.traces import Link, Span, TraceBook
from demo.waterfall import index_page, trace_page
from relaygr.telemetry import names

MS = 1_000_000


def span(
    span_id: str, parent: str = "", *, trace: str = "t1", name: str = "work", start: int = 0, end: int = 1, **more
):
    return Span(
        trace_id=trace,
        span_id=span_id,
        parent_span_id=parent,
        name=name,
        kind=more.get("kind", "INTERNAL"),
        service=more.get("service", "relaygr-ranker"),
        instance=more.get("instance", "ranker-1"),
        start_unix_ns=start * MS,
        end_unix_ns=end * MS,
        attributes=more.get("attributes", {}),
        links=more.get("links", ()),
        is_error=False,
    )


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


def relay(tier: str, ready: int, ranked: int) -> list[Span]:
    return [
        span("root", name=names.SPAN_RECOMMEND, end=100, service="relaygr-client", instance="client"),
        span("made", "root", name=names.SPAN_PRE_INFER_PRODUCE, start=2, end=ready),
        span("rank", "root", name="relaygr.v1.RankerService/Rank", kind="SERVER", start=ranked, end=ranked + 4),
        span(
            "compute",
            "rank",
            name=names.SPAN_RANK_COMPUTE,
            start=ranked + 1,
            end=ranked + 3,
            attributes={names.ATTR_RANK_TIER: tier, names.ATTR_RANK_PSI_TOKENS: 300},
            links=(Link(trace_id="t1", span_id="made"),),
        ),
    ]


def test_the_sentence_says_by_how_much_psi_was_ready():
    assert sentence(relay("DEVICE", 20, 60)) == (
        "Psi of 300 tokens was inferred and ready 40.0 ms before ranking came; ranking took 4.0 ms."
    )
    assert "was reloaded from DRAM and ready 40.0 ms before" in sentence(relay("DRAM", 20, 60))
    assert "ready 5.0 ms later" in sentence(relay("JOINED", 65, 60))


def test_the_sentence_says_why_there_was_no_psi():
    spans = [one for one in relay("FULL", 20, 60) if one.span_id != "made"]
    spans[0].attributes[names.ATTR_TRIGGER_DECISION] = "NOT_AT_RISK"
    assert "not at risk" in sentence(spans)


def test_a_page_shows_every_span_and_the_link_and_escapes_what_it_shows():
    spans = relay("DEVICE", 20, 60)
    spans[0].attributes["note"] = "<script>"
    page = trace_page(spans)
    assert page.count("<rect") == len(spans)
    assert "stroke-dasharray" in page
    assert "<script>" not in page
    assert story_of(spans).tier == "DEVICE"


def test_the_index_links_every_trace():
    assert 'href="abc.html"' in index_page([("abc", "what happened")])
