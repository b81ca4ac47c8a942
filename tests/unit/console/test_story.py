"""The one sentence: did the baton arrive in time, from which tier, and if not, why."""

from console.completeness import missing_spans
from console.story import is_request, sentence, story_of
from relaygr.telemetry import names
from tests.unit.console.example import inner, ordered, pre_infer, ranked, relay, reload, root, rpc, trigger


def test_psi_that_was_ready_is_said_with_its_lead_and_what_the_budget_left():
    assert sentence(relay(ready=25, start=60, end=68)) == (
        "Psi of 1,203 tokens produced in 20.0 ms, ready 36.0 ms before ranking came, "
        "ranked in 8.0 ms, 42.0 ms to spare."
    )


def test_psi_that_was_late_is_said_with_how_long_ranking_waited():
    assert "produced in 65.0 ms, ranking waited 9.0 ms for it, ranked in 25.0 ms" in sentence(
        relay(ready=70, start=60, end=85, tier="JOINED")
    )


def test_a_reload_is_said_with_its_own_time():
    spans = ordered(
        root(68), *trigger(), *pre_infer(0, "JOINED"), reload(6, 8), *ranked(60, 68, "DRAM", psi_tokens=300)
    )
    assert sentence(spans).startswith(
        "Psi of 300 tokens reloaded from DRAM in 2.0 ms, ready 53.0 ms before ranking came"
    )


def test_a_reload_that_was_extended_says_both():
    spans = ordered(root(68), *trigger(), *pre_infer(12), reload(3, 5), *ranked(60, 68, "DRAM", psi_tokens=300))
    assert "reloaded from DRAM in 2.0 ms and extended in 7.0 ms" in sentence(spans)


def test_psi_of_an_earlier_request_is_said_to_be_that():
    spans = ordered(root(68), *trigger(), *pre_infer(0, "RESIDENT"), *ranked(60, 68, "DEVICE", psi_tokens=300))
    assert sentence(spans).startswith("Psi of 300 tokens was on the device from an earlier request, ranked in 8.0 ms")


def test_a_declined_request_says_why_and_by_how_much_it_was_over():
    spans = ordered(root(124), *trigger("DECLINED", "FOOTPRINT"), *ranked(60, 124, "FULL", "DECLINED"))
    assert sentence(spans) == "Declined: footprint, ranked in full in 64.0 ms, 14.0 ms over."


def test_a_request_that_is_not_at_risk_says_so():
    spans = ordered(root(68), *trigger("NOT_AT_RISK", "NOT_AT_RISK"), *ranked(60, 68, "FULL", "NO_TICKET"))
    assert sentence(spans) == "Not at risk, ranked in full in 8.0 ms, 42.0 ms to spare."


def test_psi_that_was_lost_says_the_ranker_s_reason():
    spans = ordered(root(90), *trigger(), *pre_infer(25), *ranked(60, 90, "FULL", "PRODUCTION_FAILED"))
    assert sentence(spans).startswith("No psi (production failed), ranked in full in 30.0 ms")


def test_a_failed_rank_says_what_ended_it():
    failed = rpc("route", "root", "RouterService/Rank", "SERVER", 60, 61, "router", is_error=True)
    failed.attributes[names.ATTR_ERROR] = "DeadlineTooShort"
    assert sentence(ordered(root(61), *trigger(), failed)).startswith("Failed: DeadlineTooShort after 1.0 ms")


def test_a_rank_whose_ranker_did_not_tell_is_not_taken_for_one_on_psi():
    routed = rpc("route", "root", "RouterService/Rank", "SERVER", 60, 61, "router")
    assert sentence(ordered(root(61), *trigger(), routed)) == (
        "Ranked in 1.0 ms, 49.0 ms to spare; the ranker's spans have not come."
    )


def test_without_the_trigger_s_word_there_is_no_budget_to_be_over():
    story = story_of(ordered(root(68), *ranked(60, 68, "FULL", "NO_TICKET")))
    assert (story.budget_ns, story.spare_ns, story.decision) == (None, None, "")


def test_a_rank_that_only_verifies_is_not_the_request_s():
    about = {names.ATTR_RANK_TIER: "FULL", names.ATTR_RANK_FALLBACK: "BYPASSED"}
    again = rpc("again", "root", "RankerService/Rank", "SERVER", 70, 99, "ranker", attributes=about)
    story = story_of(ordered(*relay(), again))
    assert (story.tier, story.rank_ns) == ("DEVICE", 8_000_000)


def test_only_recommendations_are_requests():
    assert is_request(relay())
    assert is_request([rpc("a", "", "RouterService/Rank", "SERVER", 0, 1, "router")])
    assert not is_request([rpc("a", "", "RankerService/Describe", "SERVER", 0, 1, "ranker")])


def test_a_whole_trace_misses_nothing():
    spans = relay()
    assert missing_spans(spans, story_of(spans)) == []


def test_a_span_that_did_not_come_is_named():
    for gone in ("admission", "made", "chunk", "routed", "asked", "route", "rank", "compute"):
        spans = [one for one in relay() if one.span_id != gone]
        lost = next(one for one in relay() if one.span_id == gone)
        told = story_of(spans)
        if told.decision and told.tier:
            assert any(lost.name.endswith(name.split()[0]) for name in missing_spans(spans, told)), gone


def test_what_was_not_asked_for_is_not_missed():
    spans = ordered(root(68), *trigger("NOT_AT_RISK", "NOT_AT_RISK"), *ranked(60, 68, "FULL", "NO_TICKET"))
    assert missing_spans(spans, story_of(spans)) == []
    resident = ordered(root(68), *trigger(), *pre_infer(0, "RESIDENT"), *ranked(60, 68, "DEVICE"))
    assert missing_spans(resident, story_of(resident)) == []


def test_work_behind_the_answer_does_not_lengthen_the_request():
    story = story_of(ordered(*relay(end=68), inner("spill", "asked", names.SPAN_PRE_INFER_SPILL, 69, 90, "ranker")))
    assert (story.answered_unix_ns, story.end_unix_ns) == (68_000_000, 90_000_000)
