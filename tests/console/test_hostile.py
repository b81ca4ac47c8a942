import pytest
from playwright.sync_api import expect

from tests.console.state import report
from tests.console.traffic import Kind, Processes, Request, tell

IMAGE = '<img src=x onerror="window.isHacked = true">'
SCRIPT = "<script>window.isHacked = true</script>"
FLOOD = 2_000
BATCH = 200
LONGEST_TASK_MS = 500
NODES_MAX = 6_000
ROWS_MAX = 100


@pytest.fixture(scope="module")
def hostile(console):
    report(console.otlp, rankers=("ranker-1", IMAGE))
    return tell(
        console.otlp, Kind.DEVICE, request_id=IMAGE, stage=SCRIPT, attributes={"note": SCRIPT, "user.hash": IMAGE}
    )[0]


def assert_harmless(page, visitor) -> None:
    assert page.evaluate("window.isHacked") is None
    assert page.locator("main img, main script").count() == 0
    assert not visitor.complaints


def test_markup_in_what_a_request_says_is_shown_as_text(visitor, hostile):
    page = visitor.visit(f"#/trace/{hostile.trace_id}")
    expect(page.locator("#request-details")).to_contain_text(IMAGE)
    expect(page.locator(".bar", has_text=SCRIPT)).to_be_visible()
    page.locator(".bar").first.click()
    expect(page.locator("#span-details")).to_contain_text(SCRIPT)
    assert_harmless(page, visitor)


def test_markup_in_what_a_process_says_is_shown_as_text(visitor, hostile):
    page = visitor.visit()
    expect(page.locator("#instances")).to_contain_text(IMAGE)
    assert_harmless(page, visitor)


def test_markup_in_an_address_is_shown_as_text(open_visitor, told):
    visitor = open_visitor()
    page = visitor.visit(f"#/trace/{IMAGE}")
    expect(page.locator("#sentence")).to_contain_text("No trace")
    assert page.evaluate("window.isHacked") is None
    assert page.locator("main img").count() == 0


def test_inline_scripts_and_styles_are_forbidden(console):
    page = console.get("").decode()
    assert "<style" not in page and " style=" not in page and " onclick=" not in page
    assert page.count("<script") == page.count('<script type="module" src=')


@pytest.mark.timeout(180)
def test_a_flood_keeps_the_page_responsive(visitor, console):
    page = visitor.visit()
    page.evaluate("""() => {
      window.longest_ms = 0;
      new PerformanceObserver((list) => {
        for (const task of list.getEntries()) window.longest_ms = Math.max(window.longest_ms, task.duration);
      }).observe({ type: "longtask" });
    }""")
    for _ in range(FLOOD // BATCH):
        with Processes(console.otlp) as processes:
            for _ in range(BATCH):
                Request(processes, Kind.NOT_AT_RISK, "ranker-1", None).tell()
    last = tell(console.otlp, Kind.DECLINED)[0]
    expect(page.locator(f'#requests [data-key="{last.trace_id}"]')).to_be_visible(timeout=30_000)
    page.locator('#filters input[value="declined"]').check(force=True)
    expect(page.locator(f'#requests [data-key="{last.trace_id}"]')).to_be_visible()
    page.locator('#filters input[value="all"]').check(force=True)
    expect(page.locator("#requests tbody tr")).to_have_count(ROWS_MAX)
    assert page.evaluate("document.querySelectorAll('*').length") < NODES_MAX
    assert page.evaluate("window.longest_ms") < LONGEST_TASK_MS
