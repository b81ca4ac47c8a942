"""Rows, filters and the last minute."""

import pytest

from console.requests import RequestBook, row_of
from tests.unit.console.example import ordered, ranked, relay, root, trigger

S = 1_000_000_000


def declined(end: int = 124):
    return ordered(root(end), *trigger("DECLINED", "FOOTPRINT"), *ranked(60, end, "FULL", "DECLINED"))


def without_ticket():
    return ordered(root(68), *ranked(60, 68, "FULL", "NO_TICKET"))


@pytest.fixture
def book():
    found = RequestBook()
    for trace_id, spans in (("hit", relay()), ("declined", declined()), ("none", without_ticket())):
        found.put(row_of(trace_id, spans))
    return found


def shown(book: RequestBook, name: str) -> set[str]:
    return {row.trace_id for row in book.shown(name, 10)}


def test_each_filter_shows_its_own(book):
    assert shown(book, "all") == {"hit", "declined", "none"}
    assert shown(book, "slow") == {"declined"}
    assert shown(book, "declined") == {"declined"}
    assert shown(book, "fallback") == {"none"}
    assert shown(book, "error") == set()
    with pytest.raises(KeyError):
        book.shown("other", 10)


def test_the_newest_come_first_and_no_more_than_asked_for():
    book = RequestBook()
    for number in range(5):
        spans = relay(start=60 + number)
        spans = [
            type(one)(**{**one.to_json(), "links": one.links, "start_unix_ns": one.start_unix_ns + number})
            for one in spans
        ]
        book.put(row_of(f"t{number}", spans))
    assert [row.trace_id for row in book.shown("all", 3)] == ["t4", "t3", "t2"]


def test_the_slowest_is_the_one_that_waited_longest_for_its_ranking(book):
    assert book.slowest().trace_id == "declined"
    book.drop("declined")
    assert book.slowest().story.rank_ns == 8_000_000


def test_the_overview_counts_the_last_minute_alone(book):
    seen = book.overview(S)
    assert seen["requests"]["count"] == 3 and seen["requests"]["late"] == 1
    assert seen["requests"]["by_tier"] == {"DEVICE": 1, "FULL": 2}
    assert seen["requests"]["by_decision"] == {"ADMITTED": 1, "DECLINED": 1, "UNKNOWN": 1}
    assert seen["requests"]["declined_reasons"] == {"FOOTPRINT": 1}
    assert seen["survival"] == {"admitted": 1, "survived": 1}
    assert book.overview(62 * S)["requests"]["count"] == 0


def test_a_quantile_is_a_latency_that_somebody_saw(book):
    rank = book.overview(S)["latency_ms"]["rank"]
    assert rank == {"p50": 8.0, "p99": 64.0, "count": 3}
    assert RequestBook().overview(S)["latency_ms"]["rank"] == {"p50": None, "p99": None, "count": 0}


def test_the_history_has_a_point_a_second_and_the_request_in_its_own(book):
    history = book.overview(30 * S)["history"]
    assert len(history) == 60 and history[-1]["at_unix_ms"] == 30_000
    assert [point["count"] for point in history if point["count"]] == [3]
    assert next(point for point in history if point["count"])["at_unix_ms"] == 0


def test_a_row_says_what_its_page_needs(book):
    row = book.get("declined").to_json()
    assert row["spare_ms"] == -14.0 and row["is_late"] and row["end_to_end_ms"] == 124.0
    assert row["sentence"].startswith("Declined: footprint")
    assert (row["tier"], row["decision"], row["instance"]) == ("FULL", "DECLINED", "ranker-1")
