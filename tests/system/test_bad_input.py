"""Bad input is refused with the field's name, and costs nobody else anything."""

import grpc
import numpy as np
import pytest

from relaygr.behaviours.columns import Behaviours, Candidates, Profile, chain_of
from relaygr.v1 import common_pb2, ranker_pb2, router_pb2, router_pb2_grpc, trigger_pb2, trigger_pb2_grpc
from tests.system.world import (
    AT_RISK_MS,
    CROSS_WIDTH,
    ITEMS,
    LIMITS,
    SCORE_DIFFERENCE_MOST,
    arrive_admitted,
    client_of,
    relay_once,
)

MESSAGE_BYTES_MAX = 8 * 1024 * 1024
NOW_S = 1_700_000_000


def behaviours(count: int, times_s=None, **columns) -> common_pb2.Behaviours:
    times_s = 1_600_000_000 + np.arange(count) if times_s is None else times_s
    return Behaviours.of(np.resize(ITEMS, count), times_s, **columns).to_pb()


def inline(sent: common_pb2.Behaviours) -> common_pb2.History:
    made = Behaviours.of(np.frombuffer(sent.item_ids, "<i8"), np.frombuffer(sent.timestamps_s, "<i8"))
    cut = common_pb2.Cut(behaviour_count=sent.count, digest=chain_of(Profile.empty(), made).digest)
    return common_pb2.History(cut=cut, inline=common_pb2.InlineHistory(behaviours=sent).SerializeToString())


def rank_request(**changes) -> ranker_pb2.RankRequest:
    request = ranker_pb2.RankRequest(
        user="bad", history=inline(behaviours(10)), candidates=Candidates.of(ITEMS[:4]).to_pb(), request_time_s=NOW_S
    )
    for field, value in changes.items():
        getattr(request, field).CopyFrom(value)
    return request


def cross(rows: np.ndarray) -> ranker_pb2.CrossFeatures:
    return ranker_pb2.CrossFeatures(count=len(rows), dense=rows.astype("<f4").tobytes())


TOO_LONG = LIMITS.window_behaviours_max + 1
UNSORTED_S = np.array([3, 2, 1])
TEN = inline(behaviours(10))
BAD_RANKS = {
    "no candidates": (rank_request(candidates=ranker_pb2.Candidates()), "candidates.count"),
    "too many candidates": (
        rank_request(candidates=Candidates.of(np.arange(LIMITS.candidates_max + 1)).to_pb()),
        "candidates.count",
    ),
    "candidates of another count": (
        rank_request(candidates=ranker_pb2.Candidates(count=3, item_ids=b"\0" * 8)),
        "candidates.item_ids",
    ),
    "over-long history": (rank_request(history=inline(behaviours(TOO_LONG))), "history."),
    "over-long delta": (rank_request(delta=behaviours(LIMITS.delta_behaviours_max + 1)), "delta.count"),
    "unsorted history": (
        rank_request(history=inline(behaviours(3, UNSORTED_S))),
        "history.inline.behaviours.timestamps_s",
    ),
    "unsorted delta": (rank_request(delta=behaviours(3, UNSORTED_S)), "delta.timestamps_s"),
    "history not as long as its cut": (
        rank_request(history=common_pb2.History(cut=common_pb2.Cut(behaviour_count=9), inline=TEN.inline)),
        "history.",
    ),
    "not a number": (rank_request(cross=cross(np.full((1, CROSS_WIDTH), np.nan))), "cross.dense"),
    "infinite": (rank_request(cross=cross(np.full((1, CROSS_WIDTH), np.inf))), "cross.dense"),
    "wrong width of cross features": (rank_request(cross=cross(np.zeros((1, CROSS_WIDTH + 1)))), "cross.dense"),
    "features that the model does not take": (
        rank_request(delta=behaviours(2, 1_650_000_000 + np.arange(2), dense=np.zeros((2, 5)))),
        "delta.dense",
    ),
    "nonsense for a history": (
        rank_request(history=common_pb2.History(cut=common_pb2.Cut(behaviour_count=1), inline=b"\xff\xff\xff")),
        "history.",
    ),
    "forged ticket": (rank_request(ticket=common_pb2.Ticket(claims=b"made up", mac=b"\0" * 32)), "ticket"),
}
BAD_ARRIVALS = {
    "no user": (trigger_pb2.ArriveRequest(), "user"),
    "over-long user": (trigger_pb2.ArriveRequest(user="u" * 129), "user"),
    "over-long tenant": (trigger_pb2.ArriveRequest(user="u", tenant="t" * 65), "tenant"),
    "too many candidates": (
        trigger_pb2.ArriveRequest(user="1", candidate_count=LIMITS.candidates_max + 1),
        "candidate_count",
    ),
    "over-long history": (trigger_pb2.ArriveRequest(user="1", history=inline(behaviours(TOO_LONG))), "history."),
    "time before 1970": (
        trigger_pb2.ArriveRequest(user="1", history=common_pb2.History(as_of_s=-1)),
        "history.as_of_s",
    ),
}


async def refusal(call) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value


@pytest.mark.parametrize("case", BAD_RANKS)
async def test_a_bad_rank_is_refused_with_the_field_named(cluster, case):
    request, field = BAD_RANKS[case]
    async with grpc.aio.insecure_channel(cluster.addresses["router"]) as channel:
        router = router_pb2_grpc.RouterServiceStub(channel)
        error = await refusal(router.Rank(router_pb2.RouterServiceRankRequest(rank=request), timeout=5))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error.details()
    assert error.details().startswith(field), error.details()


@pytest.mark.parametrize("case", BAD_ARRIVALS)
async def test_a_bad_arrival_is_refused_with_the_field_named(cluster, case):
    request, field = BAD_ARRIVALS[case]
    async with grpc.aio.insecure_channel(cluster.addresses["trigger"]) as channel:
        error = await refusal(trigger_pb2_grpc.TriggerServiceStub(channel).Arrive(request, timeout=5))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error.details()
    assert error.details().startswith(field), error.details()


async def test_a_ticket_of_another_user_is_refused(cluster):
    async with client_of(cluster) as client:
        relay = await arrive_admitted(client, 1)
        async with relay:
            arrived = relay.arrived
            request = rank_request(ticket=arrived.ticket, history=common_pb2.History(cut=arrived.cut))
            async with grpc.aio.insecure_channel(cluster.addresses["router"]) as channel:
                router = router_pb2_grpc.RouterServiceStub(channel)
                error = await refusal(router.Rank(router_pb2.RouterServiceRankRequest(rank=request), timeout=5))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error.details().startswith("ticket")


@pytest.mark.parametrize("service", ["trigger", "router"])
async def test_an_over_size_message_is_refused(cluster, service):
    history = common_pb2.History(inline=b"\0" * (MESSAGE_BYTES_MAX + 1))
    async with grpc.aio.insecure_channel(cluster.addresses[service]) as channel:
        if service == "trigger":
            request = trigger_pb2.ArriveRequest(user="1", history=history)
            error = await refusal(trigger_pb2_grpc.TriggerServiceStub(channel).Arrive(request, timeout=10))
        else:
            rank = router_pb2.RouterServiceRankRequest(rank=rank_request(history=history))
            error = await refusal(router_pb2_grpc.RouterServiceStub(channel).Rank(rank, timeout=10))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_unknown_items_are_scored_and_flagged(cluster):
    async with client_of(cluster) as client:
        relay = await client.arrive(user=4, candidate_count=3, rank_budget_ms=AT_RISK_MS)
        async with relay:
            ranking = await relay.rank([int(ITEMS[0]), 999_999, -5], verify=True)
    assert ranking.unknown == (1, 2)
    assert ranking.scores[1, 0] == ranking.scores[2, 0] != ranking.scores[0, 0]
    assert ranking.score_difference <= SCORE_DIFFERENCE_MOST


async def test_an_unknown_user_has_an_empty_prefix_and_is_answered(cluster):
    async with client_of(cluster) as client:
        decision, ranking = await relay_once(client, "nobody has seen me")
    assert decision in ("DECLINED", "NOT_AT_RISK")
    assert ranking.tier == "FULL" and np.isfinite(ranking.scores).all()


async def test_an_admitted_psi_survives_the_bad_requests_of_others(cluster):
    async with client_of(cluster) as client, grpc.aio.insecure_channel(cluster.addresses["router"]) as channel:
        router = router_pb2_grpc.RouterServiceStub(channel)
        relay = await arrive_admitted(client, 5, latest_ms=2000)
        async with relay:
            for request, _ in BAD_RANKS.values():
                await refusal(router.Rank(router_pb2.RouterServiceRankRequest(rank=request), timeout=5))
            ranking = await relay.rank(ITEMS[:8], verify=True)
    assert ranking.tier != "FULL", ranking.fallback
    assert ranking.score_difference <= SCORE_DIFFERENCE_MOST
