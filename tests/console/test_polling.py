import re
import time
from itertools import pairwise

import pytest
from playwright.sync_api import Route, expect

from tests.console.process import ConsoleProcess
from tests.console.traffic import Kind, tell

WATCHED = """
  Object.defineProperty(document, "hidden", { get: () => window.isHidden === true });
  window.setHidden = (isHidden) => {
    window.isHidden = isHidden;
    document.dispatchEvent(new Event("visibilitychange"));
  };
  window.asked = 0;
  const { fetch } = window;
  window.fetch = (...given) => {
    window.asked += 1;
    return fetch(...given);
  };
"""
TEN_PERIODS_MS = 10_000
OVERVIEW = re.compile("/api/overview")


@pytest.fixture
def asked(visitor):
    """A page whose clock is the test's, and the questions that it asked."""
    visitor.context.add_init_script(WATCHED)
    visitor.context.clock.install()
    page = visitor.visit()
    questions: list[str] = []
    page.on("request", lambda request: questions.append(request.url))
    return page, questions


def test_a_visible_page_asks_once_a_second(visitor):
    page = visitor.visit()
    seen_s = []
    for _ in range(4):
        with page.expect_request(OVERVIEW):
            pass
        seen_s.append(time.monotonic())
    gaps_s = [later - earlier for earlier, later in pairwise(seen_s)]
    assert min(gaps_s) > 0.8 and sum(gaps_s) / len(gaps_s) < 2.0


def test_a_hidden_page_does_not_ask_and_asks_at_once_when_seen(asked):
    page, questions = asked
    page.evaluate("setHidden(true)")
    questions.clear()
    page.clock.run_for(TEN_PERIODS_MS)
    assert not questions
    with page.expect_response(OVERVIEW):
        page.evaluate("setHidden(false)")


def test_a_page_that_is_hidden_while_it_asks_does_not_ask_again(asked):
    page, questions = asked
    held: list[Route] = []
    # Not held.append itself: Playwright writes on the handlers that it is given.
    page.route(OVERVIEW, lambda route: held.append(route))
    with page.expect_request(OVERVIEW):
        pass
    page.evaluate("setHidden(true)")
    with page.expect_response(OVERVIEW):
        held[0].continue_()
    page.unroute(OVERVIEW)
    expect(page.locator("#pulse")).to_contain_text("Live")
    questions.clear()
    page.clock.run_for(TEN_PERIODS_MS)
    assert not questions


def test_a_paused_page_stays_as_it_is_until_resumed(asked):
    page, questions = asked
    pause = page.get_by_role("button", name="Pause").element_handle()
    assert page.evaluate("(pause) => { const before = asked; pause.click(); return asked - before; }", pause) == 0
    expect(page.locator("#pulse")).to_contain_text("Paused at")
    questions.clear()
    page.clock.run_for(TEN_PERIODS_MS)
    assert not questions
    with page.expect_response(OVERVIEW):
        page.get_by_role("button", name="Resume").click()
    expect(page.locator("#pulse")).to_contain_text("Live")


def test_a_console_that_goes_away_is_said_and_its_return_is_seen(open_visitor):
    with ConsoleProcess() as console:
        first = tell(console.otlp, Kind.DEVICE)[0]
        page = open_visitor(console).visit()
        row = page.locator("#requests tbody tr")
        expect(row).to_have_count(1)
        console.stop()
        notice = page.get_by_role("status").and_(page.locator("#notice"))
        expect(notice).to_contain_text("The console has not answered since")
        expect(page.locator("#pulse")).to_have_text("No answer")
        expect(page.locator(f'#requests [data-key="{first.trace_id}"]')).to_be_visible()
        console.start()
        expect(notice).to_have_text("The console answers again.")
        second = tell(console.otlp, Kind.DRAM)[0]
        expect(page.locator(f'#requests [data-key="{second.trace_id}"]')).to_be_visible()
        expect(notice).to_have_text("")


def test_a_console_that_answers_nonsense_is_said(visitor, told):
    page = visitor.visit()
    page.route(OVERVIEW, lambda route: route.fulfill(status=500, body="no"))
    expect(page.locator("#notice")).to_contain_text("it answered 500")
    page.unroute(OVERVIEW)
    expect(page.locator("#notice")).to_have_text("The console answers again.")
