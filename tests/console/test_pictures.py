"""Writes pictures of the page to run/console, from a minute of made-up traffic."""

import random
import time

import pytest
from playwright.sync_api import expect

from tests.console.process import ROOT
from tests.console.state import report
from tests.console.traffic import Kind, Processes, Request, tell

PICTURES = ROOT / "run" / "console"
SECONDS = 60
WEIGHTS = {
    Kind.DEVICE: 30,
    Kind.DRAM: 14,
    Kind.JOINED: 3,
    Kind.NOT_AT_RISK: 40,
    Kind.DECLINED: 2,
    Kind.FALLBACK: 1,
}


@pytest.fixture(scope="module")
def minute(console):
    """A minute of traffic that has just passed, and one more relay of which all is known."""
    chance = random.Random(7)
    now_ns = time.time_ns()
    with Processes(console.otlp) as processes:
        for second in range(SECONDS):
            for kind in chance.choices(list(WEIGHTS), WEIGHTS.values(), k=chance.randint(1, 4)):
                start_ns = now_ns - (SECONDS - second) * 10**9 + chance.randrange(10**9)
                more = {} if kind is Kind.DECLINED else {"compute_ms": chance.uniform(4.5, 11.0)}
                if kind in (Kind.NOT_AT_RISK, Kind.FALLBACK):
                    more = {"compute_ms": chance.uniform(14.0, 38.0)}
                Request(processes, kind, f"ranker-{chance.randint(1, 2)}", start_ns, **more).tell()
    report(console.otlp)
    return tell(console.otlp, Kind.DEVICE)[0]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_of_both_views_are_taken(open_visitor, minute, scheme):
    PICTURES.mkdir(parents=True, exist_ok=True)
    visitor = open_visitor(color_scheme=scheme)
    page = visitor.visit()
    expect(page.locator(f'#requests [data-key="{minute.trace_id}"]')).to_be_visible()
    page.screenshot(path=PICTURES / f"overview-{scheme}.png")
    page.screenshot(path=PICTURES / f"overview-whole-{scheme}.png", full_page=True)
    page = visitor.visit(f"#/trace/{minute.trace_id}", height=1090)
    page.locator(".bar.kind-rank").click()
    page.screenshot(path=PICTURES / f"waterfall-{scheme}.png")
    narrow = visitor.visit(f"#/trace/{minute.trace_id}", width=400)
    narrow.locator(".bar").first.wait_for()
    narrow.screenshot(path=PICTURES / f"waterfall-narrow-{scheme}.png", full_page=True)
    assert not visitor.complaints
