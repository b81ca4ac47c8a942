"""The relay at one ranker: production, hold, consumption, and full inference as the floor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest

from relaygr.behaviours.columns import Behaviours
from relaygr.errors import Stale
from relaygr.rpc.identity import model_to_pb
from relaygr.rpc.status import error_of
from relaygr.telemetry import names
from relaygr.v1 import common_pb2, ranker_pb2
from services.ranker.core.jobs import APPEND_TOKENS_MAX
from tests.contract.ranker_world import World, history, model_dir, ranker_world, world

__all__ = ["model_dir", "world"]


async def test_rank_consumes_the_psi_its_ticket_produced(world: World) -> None:
    behaviours = history(1, 500)
    ticket = world.ticket(behaviours)
    accepted = await world.pre_infer(behaviours, ticket)
    assert accepted.acceptance == ranker_pb2.ACCEPTANCE_STARTED
    await world.until_idle()
    request = world.rank_request(behaviours, ticket=ticket)
    response = await world.rank(request)
    assert response.tier == ranker_pb2.TIER_DEVICE
    assert (response.psi_tokens, response.inferred_tokens) == (501, 23)
    assert await world.difference(request, response) <= 1e-5


async def test_a_rank_that_comes_during_production_joins_it(world: World) -> None:
    behaviours = history(2, 1000)
    ticket = world.ticket(behaviours)
    await world.pre_infer(behaviours, ticket)
    request = world.rank_request(behaviours, ticket=ticket)
    response = await world.rank(request)
    assert response.tier in (ranker_pb2.TIER_JOINED, ranker_pb2.TIER_DEVICE)
    assert await world.difference(request, response) <= 1e-5


async def test_without_a_ticket_ranking_runs_in_full(world: World) -> None:
    response = await world.rank(world.rank_request(history(3, 300)))
    assert response.tier == ranker_pb2.TIER_FULL
    assert response.fallback == ranker_pb2.FALLBACK_REASON_NO_TICKET
    assert response.inferred_tokens == 301 + 3 + 20


async def test_a_returning_user_costs_an_append(world: World) -> None:
    earlier, later = history(4, 400), history(4, 440)
    first = world.ticket(earlier)
    whole = await world.pre_infer(earlier, first)
    await world.until_idle()
    await world.rank(world.rank_request(earlier, ticket=first))
    second = world.ticket(later)
    appended = await world.pre_infer(later, second)
    await world.until_idle()
    request = world.rank_request(later, ticket=second)
    response = await world.rank(request)
    assert (response.tier, response.psi_tokens) == (ranker_pb2.TIER_DEVICE, 441)
    assert 0 < appended.production_ns < whole.production_ns
    assert (await world.pre_infer(later, world.ticket(later))).production_ns == 0
    assert await world.difference(request, response) <= 1e-5
    produced = [s for s in world.spans.get_finished_spans() if s.name == "relaygr.pre_infer.produce"]
    assert [s.attributes["relaygr.pre_infer.from_tokens"] for s in produced] == [0, 401]


async def test_the_few_tokens_that_psi_misses_are_left_to_the_rank(world: World) -> None:
    earlier, later = history(6, 400), history(6, 420)
    first = world.ticket(earlier)
    await world.pre_infer(earlier, first)
    await world.until_idle()
    await world.rank(world.rank_request(earlier, ticket=first))
    second = world.ticket(later)
    assert (await world.pre_infer(later, second)).production_ns == 0
    request = world.rank_request(later, ticket=second)
    response = await world.rank(request)
    assert (response.tier, response.psi_tokens) == (ranker_pb2.TIER_DEVICE, 401)
    assert jobs_by_class(world) == {"PRE_INFER": 1, "RANK": 2}
    assert await world.difference(request, response) <= 1e-5


def jobs_by_class(world: World) -> dict[str, int]:
    points = world.telemetry.points(names.METRIC_DEVICE_STEP_LONGEST)
    return {point.attributes[names.ATTR_DEVICE_JOB_CLASS]: point.count for point in points}


async def produced(world: World, behaviours: Behaviours) -> dict[str, int]:
    """The device's jobs by class, once psi of a history is there and was ranked on."""
    ticket = world.ticket(behaviours)
    await world.pre_infer(behaviours, ticket)
    await world.until_idle()
    response = await world.rank(world.rank_request(behaviours, ticket=ticket))
    assert response.tier == ranker_pb2.TIER_DEVICE
    return jobs_by_class(world)


async def test_only_a_short_append_to_psi_that_is_there_goes_as_an_append(world: World) -> None:
    base = 300
    assert await produced(world, history(23, base)) == {"PRE_INFER": 1, "RANK": 1}
    short, long = base + APPEND_TOKENS_MAX, base + 2 * APPEND_TOKENS_MAX + 1
    assert await produced(world, history(23, short)) == {"PRE_INFER": 1, "APPEND": 1, "RANK": 2}
    assert await produced(world, history(23, long)) == {"PRE_INFER": 2, "APPEND": 1, "RANK": 3}


async def test_a_short_history_from_nothing_goes_as_a_pre_infer(world: World) -> None:
    assert await produced(world, history(24, APPEND_TOKENS_MAX // 2)) == {"PRE_INFER": 1, "RANK": 1}


async def test_a_shorter_psi_serves_a_longer_history_without_a_ticket(world: World) -> None:
    earlier, later = history(5, 300), history(5, 320)
    ticket = world.ticket(earlier)
    await world.pre_infer(earlier, ticket)
    await world.until_idle()
    request = world.rank_request(later)
    response = await world.rank(request)
    assert (response.tier, response.psi_tokens) == (ranker_pb2.TIER_DEVICE, 301)
    assert await world.difference(request, response) <= 1e-5


async def test_psi_of_another_history_is_never_used(world: World) -> None:
    ours, theirs = history(6, 300), history(7, 300)
    ticket = world.ticket(theirs)
    await world.pre_infer(theirs, ticket)
    await world.until_idle()
    # The same user id, but another history: the digest tells them apart.
    request = world.rank_request(ours)
    response = await world.rank(request)
    assert response.tier == ranker_pb2.TIER_FULL
    assert response.fallback == ranker_pb2.FALLBACK_REASON_DIGEST_MISMATCH
    assert await world.difference(request, response) <= 1e-5


async def test_the_score_check_can_fail(world: World) -> None:
    """Two users' histories give logits further apart than 100 times the tolerance."""
    one = np.frombuffer((await world.rank(world.rank_request(history(8, 300)))).logits, "<f4")
    two = np.frombuffer((await world.rank(world.rank_request(history(9, 300)))).logits, "<f4")
    assert np.abs(one - two).max() >= 1e-3


async def test_a_ticket_of_another_boot_is_ranked_in_full(world: World) -> None:
    behaviours = history(10, 200)
    ticket = world.ticket(behaviours, instance_epoch=1)
    declined = await world.pre_infer(behaviours, ticket)
    assert declined.reason == ranker_pb2.DECLINE_REASON_FOREIGN_TICKET
    response = await world.rank(world.rank_request(behaviours, ticket=ticket))
    assert response.fallback == ranker_pb2.FALLBACK_REASON_FOREIGN_TICKET


async def test_a_ticket_of_another_model_is_ranked_by_that_model_or_not_at_all(world: World) -> None:
    behaviours = history(10, 200)
    model = model_to_pb(replace(world.ranker.instance.record.model, version="another"))
    ticket = world.ticket(behaviours, model=model, instance_epoch=1)
    assert (await world.pre_infer(behaviours, ticket)).reason == ranker_pb2.DECLINE_REASON_FOREIGN_TICKET
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await world.rank(world.rank_request(behaviours, ticket=ticket))
    assert type(error_of(refused.value, "ranker")) is Stale


async def test_declines_what_does_not_fit_and_ranks_it_in_full(model_dir: Path) -> None:
    async with ranker_world(model_dir, pages=3) as world:
        behaviours = history(11, 600)
        ticket = world.ticket(behaviours)
        declined = await world.pre_infer(behaviours, ticket)
        assert declined.reason == ranker_pb2.DECLINE_REASON_FOOTPRINT
        response = await world.rank(world.rank_request(behaviours, ticket=ticket))
        assert response.fallback == ranker_pb2.FALLBACK_REASON_DECLINED


async def test_draining_takes_no_pre_infers_and_goes_on_ranking(world: World) -> None:
    drained = await world.stub.Drain(ranker_pb2.DrainRequest(), timeout=5)
    assert drained.state == ranker_pb2.INSTANCE_STATE_DRAINING
    behaviours = history(12, 200)
    ticket = world.ticket(behaviours)
    assert (await world.pre_infer(behaviours, ticket)).reason == ranker_pb2.DECLINE_REASON_DRAINING
    assert (await world.rank(world.rank_request(behaviours, ticket=ticket))).logits
    undone = await world.stub.Drain(ranker_pb2.DrainRequest(undo=True), timeout=5)
    assert undone.state == ranker_pb2.INSTANCE_STATE_READY


async def test_forget_purges_psi_and_blocks_late_stores(world: World) -> None:
    behaviours = history(13, 300)
    ticket = world.ticket(behaviours)
    await world.pre_infer(behaviours, ticket)
    await world.until_idle()
    forgotten = await world.stub.Forget(ranker_pb2.ForgetRequest(tenant="default", user="u1"), timeout=5)
    assert (forgotten.device_entries, forgotten.dram_reached) == (1, True)
    late = await world.pre_infer(behaviours, world.ticket(behaviours))
    assert late.reason == ranker_pb2.DECLINE_REASON_FORGOTTEN
    response = await world.rank(world.rank_request(behaviours))
    assert response.tier == ranker_pb2.TIER_FULL


async def test_release_gives_the_reservation_back_once(world: World) -> None:
    behaviours = history(14, 300)
    ticket = world.ticket(behaviours)
    await world.pre_infer(behaviours, ticket)
    assert (await world.stub.Release(ranker_pb2.ReleaseRequest(ticket=ticket), timeout=5)).was_held
    assert not (await world.stub.Release(ranker_pb2.ReleaseRequest(ticket=ticket), timeout=5)).was_held


async def test_a_caller_that_leaves_ends_its_lease(world: World) -> None:
    behaviours = history(15, 1000)
    ticket = world.ticket(behaviours)
    await world.pre_infer(behaviours, ticket)
    call = world.stub.Rank(world.rank_request(behaviours, ticket=ticket), timeout=10)
    call.cancel()
    with pytest.raises(BaseException, match=r".*"):
        await call
    await world.until_idle()
    await world.stub.Forget(ranker_pb2.ForgetRequest(tenant="default", user="u1"), timeout=5)
    await world.until_idle()
    assert world.ranker.engine.residency.snapshot().used_pages == 0


async def test_the_rank_span_links_to_the_producer_of_its_psi(world: World) -> None:
    behaviours = history(16, 300)
    ticket = world.ticket(behaviours)
    await world.pre_infer(behaviours, ticket)
    await world.until_idle()
    await world.rank(world.rank_request(behaviours, ticket=ticket))
    spans = {span.name: span for span in world.spans.get_finished_spans()}
    producer, rank = spans["relaygr.v1.RankerService/PreInfer"], spans["relaygr.v1.RankerService/Rank"]
    assert [link.context.span_id for link in rank.links] == [producer.context.span_id]
    assert rank.attributes["relaygr.rank.tier"] == "DEVICE"
    assert {"relaygr.pre_infer.produce", "relaygr.pre_infer.chunk", "relaygr.rank.compute"} <= set(spans)
    assert "u1" not in str([span.attributes for span in spans.values()])


async def test_unknown_items_score_and_are_flagged(world: World) -> None:
    behaviours = history(17, 50)
    request = world.rank_request(behaviours)
    request.candidates.item_ids = np.array([1, 999_999, 2], "<i8").tobytes()
    request.candidates.count = 3
    response = await world.rank(request)
    assert list(response.unknown_candidates) == [1]
    assert len(response.logits) == 3 * 2 * 4


async def test_an_empty_history_is_ranked(world: World) -> None:
    request = world.rank_request(history(18, 0), delta=common_pb2.Behaviours())
    response = await world.rank(request)
    assert (response.tier, len(response.logits)) == (ranker_pb2.TIER_FULL, 20 * 2 * 4)


def _spoilt(world: World, spoil: str) -> ranker_pb2.RankRequest:
    behaviours = history(20, 100)
    request = world.rank_request(behaviours, ticket=world.ticket(behaviours))
    match spoil:
        case "candidates":
            request.candidates.Clear()
        case "candidates.item_ids":
            request.candidates.item_ids = b"123"
        case "user":
            request.user = ""
        case "delta.timestamps_s":
            request.delta.timestamps_s = np.array([9, 8, 7], "<i8").tobytes()
        case "delta.dense":
            request.delta.dense = np.full((3, 2), np.nan, "<f4").tobytes()
        case "history.cut.behaviour_count":
            request.ClearField("ticket")
            request.history.cut.behaviour_count = 5000
        case "history.inline":
            request.history.inline = b"\xff\xff"
        case "history.inline.behaviours.dense":
            wrong = history(20, 100).to_pb()
            wrong.dense = wrong.dense[: len(wrong.dense) // 2]
            request.history.inline = common_pb2.InlineHistory(behaviours=wrong).SerializeToString()
        case "ticket":
            request.ticket.mac = bytes(32)
    return request


BAD_FIELDS = (
    "candidates",
    "candidates.item_ids",
    "user",
    "delta.timestamps_s",
    "delta.dense",
    "history.cut.behaviour_count",
    "history.inline",
    "history.inline.behaviours.dense",
    "ticket",
)


@pytest.mark.parametrize("field", BAD_FIELDS)
async def test_bad_input_is_refused_with_its_field(world: World, field: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await world.rank(_spoilt(world, field))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details().startswith(field)


async def test_another_callers_bad_request_loses_nothing_that_was_admitted(world: World) -> None:
    behaviours = history(21, 300)
    ticket = world.ticket(behaviours)
    await world.pre_infer(behaviours, ticket)
    for field in BAD_FIELDS:
        with pytest.raises(grpc.aio.AioRpcError):
            await world.rank(_spoilt(world, field))
    await world.until_idle()
    response = await world.rank(world.rank_request(behaviours, ticket=ticket))
    assert response.tier == ranker_pb2.TIER_DEVICE


async def test_a_failure_on_psi_costs_speed_not_the_answer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    behaviours = history(22, 300)
    ticket = world.ticket(behaviours)
    await world.pre_infer(behaviours, ticket)
    await world.until_idle()
    from services.ranker import engine

    real = engine.rank

    def broken_on_psi(model, prefix, suffix, psi):
        if psi is not None:
            raise RuntimeError("device error")
        return (yield from real(model, prefix, suffix, psi))

    monkeypatch.setattr(engine, "rank", broken_on_psi)
    request = world.rank_request(behaviours, ticket=ticket)
    response = await world.rank(request)
    assert response.fallback == ranker_pb2.FALLBACK_REASON_PRODUCTION_FAILED
    assert await world.difference(request, response) <= 1e-5


async def test_it_tells_how_pre_infers_and_ranks_fare_here(world: World) -> None:
    behaviours = history(7, 500)
    first, second = (world.ticket(behaviours, trigger_id="trigger-1") for _ in range(2))
    answer = await world.pre_infer(behaviours, first)
    assert (answer.feedback.pre_infers, answer.feedback.relays, list(answer.ended_ticket_ids)) == (1, 0, [])
    await world.until_idle()
    ranked = await world.rank(world.rank_request(behaviours, ticket=first))
    assert ranked.load.rank_rate_hz > 0
    other = await world.pre_infer(behaviours, world.ticket(behaviours, trigger_id="trigger-2"))
    assert list(other.ended_ticket_ids) == [], "another trigger's"
    told = await world.pre_infer(behaviours, second)
    assert list(told.ended_ticket_ids) == ["t1"]
    feedback = told.feedback
    assert (feedback.pre_infers, feedback.relays, feedback.relays_lost, feedback.productions) == (3, 1, 0, 1)
    assert 0 <= feedback.production_wait_ns < 5_000_000_000
    await world.stub.Release(ranker_pb2.ReleaseRequest(ticket=second), timeout=5)
    last = await world.pre_infer(behaviours, world.ticket(behaviours, trigger_id="trigger-1"))
    assert list(last.ended_ticket_ids) == ["t2"]
