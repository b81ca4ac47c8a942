"""What was seen of each process, newest values, and bounds."""

from console.signals import METRICS_MAX, POINTS_MAX, PROCESSES_MAX, Point, SignalBook
from relaygr.telemetry import names
from tests.unit.console.example import span

S = 1_000_000_000


def pages(used: float, total: float = 100.0):
    return [
        Point(names.METRIC_RESIDENCY_PAGES, {names.ATTR_RESIDENCY_STATE: state}, value)
        for state, value in (("used", used), ("reserved", 1.0), ("total", total))
    ]


def test_the_newest_value_of_a_metric_is_shown():
    book = SignalBook()
    book.add_points("relaygr-ranker", "ranker-1", pages(5), 0)
    book.add_points("relaygr-ranker", "ranker-1", pages(7), S)
    (seen,) = book.instances(2 * S)
    assert seen["device"] == {"used_pages": 7, "reserved_pages": 1, "total_pages": 100}
    assert seen["seen_s_ago"] == 1.0


def test_a_process_that_has_gone_silent_is_not_shown():
    book = SignalBook()
    book.add_points("relaygr-ranker", "ranker-1", pages(5), 0)
    assert book.instances(60 * S) and not book.instances(61 * S)
    assert book.signals()["services"]["relaygr-ranker"]["instances"] == ["ranker-1"]


def test_an_expander_shows_its_bytes_by_state():
    book = SignalBook()
    points = [Point(names.METRIC_DRAM_BYTES, {names.ATTR_RESIDENCY_STATE: "published"}, 4096.0)]
    book.add_points("relaygr-expander", "expander-1", [*points, Point(names.METRIC_DRAM_PINS, {}, 2.0)], 0)
    (seen,) = book.dram(0)
    assert seen["bytes"]["published"] == 4096 and seen["bytes"]["free"] == 0 and seen["pins"] == 2.0


def test_only_what_cannot_happen_must_be_zero():
    book = SignalBook()
    events = {"race_rank_unknown": 0.0, "evicted_space": 7.0}
    points = [Point(names.METRIC_RESIDENCY_EVENTS, {names.ATTR_RESIDENCY_EVENT: e}, v) for e, v in events.items()]
    book.add_points("relaygr-ranker", "ranker-1", points, 0)
    assert book.must_be_zero(0) == [{"instance": "ranker-1", "event": "race_rank_unknown", "value": 0.0}]


def test_signals_remember_what_was_once_not_zero():
    book = SignalBook()
    for value in (0.0, 3.0, 0.0):
        book.add_points("relaygr-ranker", "ranker-1", [Point("m", {}, value)], 0)
    book.add_points("relaygr-ranker", "ranker-2", [Point("other", {}, 0.0)], 0)
    metrics = book.signals()["services"]["relaygr-ranker"]["metrics"]
    assert metrics["m"] == {"points": 1, "is_nonzero": True}
    assert metrics["other"]["is_nonzero"] is False


def test_spans_are_counted_by_service_and_name():
    book = SignalBook()
    book.add_spans([span("a", name="work"), span("b", name="work"), span("c", service="other")], 0)
    assert book.signals()["services"]["relaygr-ranker"]["spans"] == {"work": 2}
    assert book.signals()["services"]["other"]["spans"] == {"work": 1}


def test_a_flood_of_processes_names_and_attributes_is_bounded():
    book = SignalBook()
    for number in range(PROCESSES_MAX + 10):
        book.add_points("service", f"i{number}", [Point("m", {}, 1.0)], number)
    assert len(book.instances(0)) <= PROCESSES_MAX
    flood = SignalBook()
    flood.add_points("s", "i", [Point("m", {"a": number}, 1.0) for number in range(2 * POINTS_MAX)], 0)
    flood.add_points("s", "i", [Point(f"m{number}", {}, 1.0) for number in range(2 * METRICS_MAX)], 0)
    metrics = flood.signals()["services"]["s"]["metrics"]
    assert metrics["m"]["points"] == POINTS_MAX and len(metrics) == METRICS_MAX
