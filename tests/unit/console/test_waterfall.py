"""Lanes, bars, the budget line and the arrow; on paper, in a terminal and in a file."""

from dataclasses import replace

from console.page import index_page, trace_page
from console.text import text_of
from console.waterfall import to_json, waterfall_of
from tests.unit.console.example import relay, span


def test_lanes_follow_the_request_s_way_through_the_services():
    assert [lane.name for lane in waterfall_of(relay()).lanes] == ["client", "trigger-1", "router-1", "ranker-1"]


def test_the_budget_begins_when_ranking_was_due():
    drawn = waterfall_of(relay(start=60))
    assert (drawn.rank_due_ms, drawn.deadline_ms) == (60.0, 110.0)


def test_the_arrow_begins_at_the_production_rather_than_at_the_call_that_asked_for_it():
    (arrow,) = waterfall_of(relay()).arrows
    assert (arrow.from_span_id, arrow.to_span_id) == ("made", "rank")


def test_bars_keep_their_parents_times_and_kinds():
    lanes = to_json(waterfall_of(relay(ready=25)))["lanes"]
    bars = {bar["span_id"]: bar for lane in lanes for bar in lane["bars"]}
    assert (bars["made"]["kind"], bars["made"]["start_ms"], bars["made"]["length_ms"]) == ("pre_infer", 5.0, 20.0)
    assert (bars["rank"]["kind"], bars["route"]["kind"], bars["compute"]["kind"]) == ("rank", "call", "compute")
    assert bars["stage"]["label"] == "rank" and bars["compute"]["parent_span_id"] == "rank"


def test_a_terminal_shows_every_span_within_its_width():
    for width in (60, 100, 200):
        text = text_of(relay(), width)
        lines = text.splitlines()
        assert max(map(len, lines[3:])) <= width
        assert sum(line.endswith(" ms") and line.startswith("  ") for line in lines) == len(relay())
        assert lines[0].startswith("Psi of 1,203 tokens produced")


def test_a_bar_stands_under_its_time():
    lines = {line.split()[0]: line for line in text_of(relay(ready=25), 154).splitlines() if line.startswith("  ")}
    made = lines["pre_infer.produce"]
    begin, end = made.index("▓"), made.rindex("▓") + 1
    chart = 100
    assert abs((begin - 34) / (chart - 1) - 5 / 68) < 0.02
    assert abs((end - 34) / (chart - 1) - 25 / 68) < 0.02


def test_a_page_shows_every_span_and_the_link_and_escapes_what_it_shows():
    spans = relay()
    spans[0].attributes["note"] = "<script>"
    page = trace_page(spans)
    assert page.count("<rect") == len(spans)
    assert "stroke-dasharray" in page
    assert "<script>" not in page


def test_a_trace_of_one_span_without_length_is_drawn():
    alone = [replace(span("a"), end_unix_ns=0)]
    assert "no ranking" in text_of(alone, 80)
    assert "<rect" in trace_page(alone)


def test_the_index_links_every_trace():
    assert 'href="abc.html"' in index_page([("abc", "what happened")])
