import re

import pytest
from playwright.sync_api import expect

from tests.console.process import ConsoleProcess
from tests.console.state import RACE, report
from tests.console.traffic import Kind, tell

SHOWN = {
    "all": set(Kind),
    "slow": {Kind.DECLINED},
    "fallback": {Kind.FALLBACK},
    "declined": {Kind.DECLINED},
    "error": {Kind.ERROR},
}


def tile(page, name: str):
    return page.locator(f'#tiles [data-key="{name}"] .value')


def number(text: str) -> float:
    return float(re.search(r"[\d,.]+", text).group().replace(",", ""))


def test_an_empty_console_says_what_to_do_next(open_visitor):
    with ConsoleProcess() as console:
        visitor = open_visitor(console)
        assert_empty(visitor.visit())
        assert not visitor.complaints


def assert_empty(page) -> None:
    expect(page.locator("#no-requests")).to_have_text("No requests yet. Send one: relaygr recommend --user 42")
    expect(page.locator("#requests")).to_be_hidden()
    expect(page.locator("#instances")).to_contain_text("No process has reported yet")
    expect(page.locator("#dram")).to_contain_text("No expander has reported yet")


def test_a_page_with_requests_loads_without_complaints(visitor, told):
    page = visitor.visit()
    expect(page.locator("#requests tbody tr")).to_have_count(len(told))
    page.goto(f"{page.url}#/trace/{told[Kind.DEVICE].trace_id}")
    expect(page.locator(".bar").first).to_be_visible()
    assert not visitor.complaints


def test_new_requests_change_the_numbers_without_a_reload(visitor, console, told):
    page = visitor.visit()
    expect(page.locator("#requests tbody tr")).not_to_have_count(0)
    before = number(tile(page, "Requests").inner_text())
    added = tell(console.otlp, Kind.DEVICE, Kind.DRAM, request_id="added-later")
    expect(page.locator(f'#requests [data-key="{added[0].trace_id}"]')).to_be_visible()
    expect(tile(page, "Requests")).to_have_text(str(int(before) + 2))
    expect(page.locator("#latency svg .line.p99, #latency svg .dot.p99").first).to_be_attached()
    expect(page.locator("#mix svg g rect").first).to_be_attached()


@pytest.mark.parametrize("chosen", SHOWN)
def test_a_filter_shows_only_its_own(visitor, told, chosen):
    page = visitor.visit()
    page.locator(f'#filters input[value="{chosen}"]').check(force=True)
    for kind, one in told.items():
        count = 1 if kind in SHOWN[chosen] else 0
        expect(page.locator(f'#requests [data-key="{one.trace_id}"]')).to_have_count(count)
    assert not visitor.complaints


def test_a_filter_is_part_of_the_address(visitor, told):
    page = visitor.visit("#/requests/declined")
    expect(page.locator('#filters input[value="declined"]')).to_be_checked()
    expect(page.locator(f'#requests [data-key="{told[Kind.DECLINED].trace_id}"]')).to_be_visible()
    page.locator('#filters input[value="error"]').check(force=True)
    expect(page).to_have_url(re.compile(r"#/requests/error$"))


def test_shares_add_up_to_the_requests_of_the_minute(visitor, console):
    tell(console.otlp, *Kind)
    page = visitor.visit()
    expect(page.locator("#tiers tbody tr")).to_have_count(4)
    expect(page.locator('#tiers [data-key="DRAM"] td').nth(1)).not_to_have_text("0")
    counts = [int(number(text)) for text in page.locator("#decisions tbody td:nth-child(3)").all_inner_texts()]
    assert sum(counts) == int(number(tile(page, "Requests").inner_text()))
    expect(page.locator("#declined")).to_have_text(re.compile(r"^Declined because: FOOTPRINT \d\.$"))
    expect(page.locator("#fallbacks")).to_contain_text(re.compile(r"PRODUCTION_FAILED \d"))


def test_p99_stands_against_the_budget(visitor, console):
    tell(console.otlp, Kind.DEVICE, Kind.DECLINED)
    page = visitor.visit()
    expect(page.locator(".tile", has_text="Rank P99")).to_contain_text("over the budget of 50.0 ms")
    expect(page.locator("#latency svg")).to_have_attribute("aria-label", re.compile("above the budget of 50.0 ms"))
    page.locator("#latency summary").click()
    expect(page.locator("#latency table tbody tr")).to_have_count(60)


def test_instances_show_what_their_tiers_hold(visitor, console):
    report(console.otlp)
    page = visitor.visit()
    ranker = page.locator('#instances [data-key="relaygr-ranker/ranker-1"]')
    expect(ranker).to_contain_text("61 of 512 used, 12 of these reserved")
    expect(ranker).to_contain_text("4.2 ms")
    expect(ranker).to_contain_text("s ago")
    dram = page.locator('#dram [data-key="expander-1"]')
    expect(dram).to_contain_text("410 MiB")
    expect(dram).to_contain_text("42.4 % taken")


def test_counters_that_must_be_zero_are_loud_only_when_they_are_not(visitor, console):
    report(console.otlp)
    page = visitor.visit()
    zeros = page.locator("#zeros")
    expect(zeros).to_contain_text("counters that must be zero are zero")
    expect(zeros).not_to_have_class(re.compile("is-bad"))
    report(console.otlp, races=2)
    expect(zeros).to_contain_text(f"{RACE} = 2 on ranker-1")
    expect(zeros).to_have_class(re.compile("is-bad"))
    report(console.otlp)
    expect(zeros).not_to_have_class(re.compile("is-bad"))
