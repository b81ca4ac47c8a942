import re

import pytest
from playwright.sync_api import expect

from relaygr.telemetry import names
from tests.console.traffic import BUDGET_MS, DUE_MS, Kind, tell

LANES = ["client", "trigger-1", "router-1", "ranker-1", "expander-1"]
SENTENCES = {
    Kind.DEVICE: "produced in 43.3 ms, ready",
    Kind.DRAM: "reloaded from DRAM in 2.1 ms, ready",
    Kind.JOINED: "ranking waited",
    Kind.EARLIER: "was on the device from an earlier request",
    Kind.FALLBACK: "No psi (production failed), ranked in full",
    Kind.DECLINED: "14.2 ms over",
    Kind.NOT_AT_RISK: "Not at risk",
    Kind.ERROR: "Failed: DeadlineExceeded",
}
FOREIGN = "f" * 32


def visit(visitor, told, kind: Kind, **more):
    page = visitor.visit(f"#/trace/{told[kind].trace_id}", **more)
    expect(page.locator(".bar").first).to_be_visible()
    return page


def bar(page, told, kind: Kind, name: str):
    return page.locator(f'.bar[data-span-id="{told[kind].span_ids[name]}"]')


def reach(locator) -> tuple[float, float]:
    """Left and right of a bar's filled part."""
    box = locator.locator(".fill").bounding_box()
    return box["x"], box["x"] + box["width"]


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name)
def test_the_sentence_says_what_happened(visitor, told, kind):
    page = visit(visitor, told, kind)
    expect(page.get_by_role("heading", level=2, name=re.compile(re.escape(SENTENCES[kind])))).to_be_visible()
    assert not visitor.complaints


def test_a_row_opens_its_waterfall_and_back_returns(visitor, told):
    page = visitor.visit("#/requests/declined")
    page.locator(f'#requests [data-key="{told[Kind.DECLINED].trace_id}"] td').nth(7).click()
    expect(page).to_have_url(re.compile(f"#/trace/{told[Kind.DECLINED].trace_id}$"))
    expect(page.locator("#sentence")).to_contain_text("Declined: footprint")
    page.go_back()
    expect(page).to_have_url(re.compile(r"#/requests/declined$"))
    expect(page.locator("#overview")).to_be_visible()
    expect(page.locator("#trace")).to_be_hidden()


def test_each_process_has_a_lane_in_the_order_of_the_relay(visitor, told):
    page = visit(visitor, told, Kind.DEVICE)
    expect(page.locator(".lane")).to_have_count(len(LANES))
    assert [lane.get_attribute("data-lane") for lane in page.locator(".lane").all()] == LANES


def test_retrieval_and_pre_processing_are_stages_of_the_client(visitor, told):
    page = visit(visitor, told, Kind.DEVICE)
    stages = page.locator('.lane[data-lane="client"] .bar.kind-stage')
    assert [stage.locator("b").inner_text() for stage in stages.all()] == [
        "arrive",
        "retrieval",
        "pre-processing",
        "rank",
    ]


def test_the_pre_infer_races_retrieval(visitor, told):
    page = visit(visitor, told, Kind.DEVICE)
    retrieval = reach(page.locator(".bar.kind-stage", has_text="retrieval"))
    produced = reach(bar(page, told, Kind.DEVICE, names.SPAN_PRE_INFER_PRODUCE))
    assert produced[0] < retrieval[1] and retrieval[0] < produced[1]
    ranked = reach(bar(page, told, Kind.DEVICE, "RankerService/Rank"))
    assert produced[1] < ranked[0]


def test_the_budget_and_the_moment_of_ranking_are_drawn_to_scale(visitor, told):
    page = visit(visitor, told, Kind.DEVICE)
    rank = page.locator(".lane[data-lane=client] .bar.kind-stage", has_text="rank")
    left, right = reach(rank)
    due = page.locator(".due-line").bounding_box()["x"]
    deadline = page.locator(".deadline-line").bounding_box()["x"]
    assert due == pytest.approx(left, abs=2)
    per_ms = (right - left) / float(rank.get_attribute("data-length-ms"))
    assert deadline - due == pytest.approx(BUDGET_MS * per_ms, rel=0.05)
    expect(page.locator(".moment.due")).to_have_text(f"rank due at {DUE_MS:.1f} ms")
    expect(page.locator(".moment.deadline")).to_have_text(f"budget of 50.0 ms ends at {DUE_MS + BUDGET_MS:.1f} ms")


def test_a_budget_that_ends_far_away_does_not_squeeze_the_request(visitor, console):
    one = tell(console.otlp, Kind.DEVICE, budget_ms=9_000.0)[0]
    page = visitor.visit(f"#/trace/{one.trace_id}")
    expect(page.locator(".moment.deadline")).to_have_text("budget of 9,000 ms ends at 9,085 ms ▸")
    expect(page.locator(".deadline-line")).to_have_count(0)
    left, right = reach(page.locator(".bar.kind-stage", has_text="retrieval"))
    assert right - left > 300


def test_a_late_rank_crosses_the_budget_line_and_is_called_late(visitor, told):
    page = visit(visitor, told, Kind.DECLINED)
    deadline = page.locator(".deadline-line").bounding_box()["x"]
    left, right = reach(bar(page, told, Kind.DECLINED, names.SPAN_RANK_COMPUTE))
    assert left < deadline < right
    expect(page.locator("#request-details")).to_contain_text("−14.2 ms, late")


@pytest.mark.parametrize("kind", [Kind.DEVICE, Kind.DRAM, Kind.JOINED], ids=lambda kind: kind.name)
def test_an_arrow_leads_from_what_produced_psi_to_the_rank(visitor, told, kind):
    page = visit(visitor, told, kind)
    source = names.SPAN_PRE_INFER_RELOAD if kind is Kind.DRAM else names.SPAN_PRE_INFER_PRODUCE
    arrow = page.locator(f'.psi-link[data-from="{told[kind].span_ids[source]}"]')
    expect(arrow).to_have_attribute("data-to", told[kind].span_ids["RankerService/Rank"])


def test_psi_that_ranking_waited_for_meets_the_rank_when_it_is_ready(visitor, told):
    page = visit(visitor, told, Kind.JOINED)
    _, ready = reach(bar(page, told, Kind.JOINED, names.SPAN_PRE_INFER_PRODUCE))
    left, right = reach(bar(page, told, Kind.JOINED, "RankerService/Rank"))
    head = page.locator(".psi-link").evaluate(
        "(path) => path.getPointAtLength(path.getTotalLength()).matrixTransform(path.getScreenCTM()).x"
    )
    assert left < head < right
    assert head == pytest.approx(ready, abs=3)


def test_psi_of_another_request_is_linked_to_its_trace(visitor, console, told):
    earlier = told[Kind.DEVICE]
    later = tell(console.otlp, Kind.EARLIER, producer=earlier.producer)[0]
    page = visitor.visit(f"#/trace/{later.trace_id}")
    expect(page.locator(".psi-link")).to_be_attached()
    page.locator("#request-details a").click()
    expect(page).to_have_url(re.compile(earlier.trace_id))
    expect(page.locator("#sentence")).to_contain_text("produced in")


def test_a_bar_shows_its_attributes_when_clicked_and_hides_them_when_clicked_again(visitor, told):
    page = visit(visitor, told, Kind.DRAM)
    chosen = bar(page, told, Kind.DRAM, "RankerService/Rank")
    chosen.click()
    details = page.locator("#span-details")
    expect(details).to_contain_text(names.ATTR_RANK_TIER)
    expect(details).to_contain_text("DRAM")
    expect(chosen).to_have_attribute("aria-pressed", "true")
    chosen.click()
    expect(details).to_be_hidden()


def test_an_incomplete_trace_says_what_is_missing(visitor, console, told):
    whole = visit(visitor, told, Kind.DEVICE)
    expect(whole.locator("#trace-note")).to_have_text("")
    one = tell(console.otlp, Kind.NOT_AT_RISK, silent=("router",))[0]
    page = visitor.visit(f"#/trace/{one.trace_id}")
    expect(page.locator("#trace-note")).to_contain_text("Incomplete: RouterService/Resolve SERVER, RouterService/Rank")


def test_a_failed_span_says_so_in_words(visitor, told):
    page = visit(visitor, told, Kind.ERROR)
    expect(page.locator(".bar.is-bad").first).to_contain_text("✕")
    expect(page.locator('.bar[aria-label*="failed"]').first).to_be_visible()


@pytest.mark.parametrize("width", [400, 768, 1280])
def test_every_bar_has_a_whole_label_within_the_drawing(visitor, told, width):
    page = visit(visitor, told, Kind.JOINED, width=width)
    cut = page.evaluate("""() => {
      const canvas = document.querySelector(".waterfall").getBoundingClientRect();
      return [...document.querySelectorAll(".bar .label")].filter((label) => {
        const { left, right, height } = label.getBoundingClientRect();
        const isCut = label.scrollWidth > label.offsetWidth + 1;
        return left < canvas.left - 1 || right > canvas.right + 1 || height < 12 || isCut;
      }).map((label) => label.textContent);
    }""")
    assert not cut
    assert page.locator(".bar .label").count() > 20


def test_a_narrow_page_scrolls_the_drawing_and_keeps_the_names_of_lanes_in_sight(visitor, told):
    page = visit(visitor, told, Kind.DEVICE, width=400)
    box, name = page.locator("#waterfall-box"), page.locator(".lane-name").first
    left = name.bounding_box()["x"]
    assert box.evaluate("(box) => { box.scrollLeft = 200; return box.scrollLeft; }") == 200
    assert name.bounding_box()["x"] == pytest.approx(left, abs=1)


def test_work_behind_the_answer_does_not_squeeze_the_request(visitor, console):
    one = tell(console.otlp, Kind.DEVICE, follows_ms=3_000.0)[0]
    page = visitor.visit(f"#/trace/{one.trace_id}")
    rank = page.locator(".lane[data-lane=client] .bar.kind-stage", has_text="rank")
    left, right = reach(rank)
    expect(page.locator(".bar", has_text="pre_infer.spill")).to_contain_text("▸")
    page.get_by_role("radio", name="And what followed").check(force=True)
    expect(page.locator(".bar", has_text="pre_infer.spill")).not_to_contain_text("▸")
    squeezed = reach(rank)
    assert squeezed[1] - squeezed[0] < (right - left) / 2


def test_the_slowest_request_gets_an_address_of_its_own(visitor, told):
    page = visitor.visit()
    page.get_by_role("link", name="Slowest request").click()
    expect(page).to_have_url(re.compile(f"#/trace/{told[Kind.DECLINED].trace_id}$"))
    expect(page.locator("#sentence")).to_contain_text("Declined")


def test_an_unknown_trace_says_so_and_leads_back(visitor, told):
    page = visitor.visit(f"#/trace/{FOREIGN}")
    expect(page.locator("#sentence")).to_have_text(f"No trace {FOREIGN} is known here.")
    expect(page.locator("#trace-body")).to_be_hidden()
    page.locator("#back").click()
    expect(page.locator("#requests tbody tr").first).to_be_visible()


def test_a_trace_that_is_not_there_yet_shows_by_itself(visitor, told):
    """The id that a caller prints can be opened at once."""
    question = re.compile(f"/api/requests/{told[Kind.DRAM].trace_id}")
    visitor.context.route(question, lambda route: route.fulfill(status=404, json={"error": "not yet"}))
    page = visitor.visit(f"#/trace/{told[Kind.DRAM].trace_id}")
    expect(page.locator("#sentence")).to_contain_text("No trace")
    visitor.context.unroute(question)
    expect(page.locator(".bar").first).to_be_visible()


def test_the_trace_id_is_copied(open_visitor, console, told):
    visitor = open_visitor(permissions=["clipboard-read", "clipboard-write"])
    page = visit(visitor, told, Kind.DEVICE)
    page.get_by_role("button", name="Copy trace id").click()
    expect(page.locator("#copied")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == told[Kind.DEVICE].trace_id


def test_the_same_waterfall_can_be_had_as_text(visitor, told):
    page = visit(visitor, told, Kind.DEVICE)
    page.get_by_role("link", name="Plain text").click()
    expect(page.locator("body")).to_contain_text("ranker-1")
