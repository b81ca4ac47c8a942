import re

import pytest
from playwright.sync_api import expect

from relaygr.telemetry import names
from tests.console.audit import CONTRAST, NAMELESS
from tests.console.state import report
from tests.console.traffic import Kind, tell

WIDTHS = [400, 768, 1280]
TABS_MAX = 40
OUTLINE = """() => {
  const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement);
  return [outlineStyle, parseFloat(outlineWidth)];
}"""


@pytest.fixture
def routes(console, told):
    """One of each view."""
    report(console.otlp, races=1)
    trace_ids = [told[kind].trace_id for kind in (Kind.DECLINED, Kind.JOINED, Kind.ERROR)]
    return ["#/", "#/requests/slow", *(f"#/trace/{trace_id}" for trace_id in trace_ids), f"#/trace/{'f' * 32}"]


def settle(page, route: str) -> None:
    """Wait until a view shows what it has."""
    if "f" * 32 in route:
        expect(page.locator("#sentence")).to_contain_text("No trace")
    elif "trace" in route:
        expect(page.locator(".bar").first).to_be_visible()
    else:
        expect(page.locator("#requests tbody tr").first).to_be_visible()
        expect(page.locator("#dram tbody td.number").first).to_be_visible()


def tab_to(page, selector: str) -> None:
    """Press Tab until the focus is on what a selector finds."""
    for _ in range(TABS_MAX):
        page.keyboard.press("Tab")
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"{selector} is not reached by {TABS_MAX} presses of Tab")


@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_scrolls_sideways(visitor, routes, width):
    for route in routes:
        page = visitor.visit(route, width=width)
        settle(page, route)
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{route} is {wide} px too wide at {width}"
        page.close()


def test_everything_is_reached_by_keyboard_alone(visitor, told):
    page = visitor.visit()
    expect(page.locator("#requests tbody tr").first).to_be_visible()
    tab_to(page, "#filters input")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    expect(page.locator('#filters input[value="declined"]')).to_be_checked()
    expect(page.locator("#requests tbody tr")).to_have_count(1)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#requests tbody tr")).to_have_count(len(told))
    tab_to(page, "#requests tbody a")
    page.keyboard.press("ArrowDown")
    opened = page.evaluate("document.activeElement.closest('tr').dataset.key")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(f"#/trace/{opened}$"))
    expect(page.locator(".bar").first).to_be_visible()
    tab_to(page, ".bar")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("#span-details")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#overview")).to_be_visible()
    assert page.evaluate("document.activeElement.closest('tr').dataset.key") == opened


def test_the_focus_stays_on_its_row_while_new_requests_come(visitor, console, told):
    page = visitor.visit()
    row = page.locator(f'#requests [data-key="{told[Kind.DRAM].trace_id}"] a')
    row.focus()
    for _ in range(2):
        added = tell(console.otlp, Kind.DEVICE)[0]
        expect(page.locator(f'#requests [data-key="{added.trace_id}"]')).to_be_visible()
        expect(row).to_be_focused()


def test_the_skip_link_leads_to_the_content(visitor, told):
    page = visitor.visit()
    page.keyboard.press("Tab")
    expect(page.locator("#skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    assert "#main" not in page.url


def test_escape_leads_out_of_a_trace_that_was_opened_by_its_address(visitor, told):
    page = visitor.visit(f"#/trace/{told[Kind.DEVICE].trace_id}")
    page.keyboard.press("Escape")
    expect(page.locator("#requests tbody tr").first).to_be_visible()


def test_the_focus_can_be_seen(visitor, told):
    page = visitor.visit(f"#/trace/{told[Kind.DEVICE].trace_id}")
    expect(page.locator(".bar").first).to_be_visible()
    for selector in ("#copy", ".bar", "#back"):
        tab_to(page, selector)
        style, width = page.evaluate(OUTLINE)
        assert style == "solid" and width >= 2, f"{selector} has an outline of {width} px, {style}"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_the_contrast_of_wcag_aa(open_visitor, routes, scheme):
    visitor = open_visitor(color_scheme=scheme)
    for route in routes:
        # So high that nothing is scrolled out of sight: what lies under a text is asked of the page.
        page = visitor.visit(route, height=3000)
        settle(page, route)
        if "trace" in route and page.locator(".bar").count():
            page.locator(".bar").last.click()
        for details in page.locator("summary").all():
            if details.is_visible():
                details.click()
        seen, faint = page.evaluate(CONTRAST)
        assert not faint, f"{route}: {faint}"
        assert seen > 5
        page.close()


def test_the_measure_of_contrast_finds_a_faint_text(visitor, told):
    page = visitor.visit()
    page.locator("#requests tbody tr").first.wait_for()
    page.evaluate("document.querySelector('h1 a').style.color = '#999'")
    _, faint = page.evaluate(CONTRAST)
    assert [text for text, *_ in faint] == ["RelayGR console"]


def test_every_control_table_and_drawing_has_a_name(visitor, routes):
    for route in routes:
        page = visitor.visit(route)
        settle(page, route)
        assert page.evaluate(NAMELESS) == [], route
        page.close()


def test_nothing_moves_for_those_who_want_it_still(open_visitor, told):
    page = open_visitor(reduced_motion="reduce").visit()
    page.locator(".share-bar").first.wait_for(state="attached")
    moving = page.evaluate("""[...document.querySelectorAll("*")].filter((node) => {
      const { transitionDuration, animationName } = getComputedStyle(node);
      return transitionDuration.split(", ").some((time) => parseFloat(time) > 0) || animationName !== "none";
    }).length""")
    assert moving == 0


def test_columns_of_a_request_keep_their_roles_where_they_are_stacked(visitor, told):
    page = visitor.visit(width=400)
    expect(page.get_by_role("table", name=re.compile("Newest first")).get_by_role("row").nth(1)).to_be_visible()
    expect(page.locator(f'#requests [data-key="{told[Kind.DRAM].trace_id}"]')).to_contain_text("reloaded from DRAM")


def test_an_attribute_of_every_service_is_named_in_full(visitor, told):
    page = visitor.visit(f"#/trace/{told[Kind.DEVICE].trace_id}")
    page.locator(f'.bar[data-span-id="{told[Kind.DEVICE].span_ids[names.SPAN_TRIGGER_ADMISSION]}"]').click()
    expect(page.locator("#span-details dt", has_text=names.ATTR_TRIGGER_BUDGET_MS)).to_be_visible()
