"""A rank passes through a router as bytes: real router, real servers, whatever it carries."""

from __future__ import annotations

import grpc
import pytest

from relaygr.v1 import ranker_pb2, router_pb2
from tests.contract.router_world import HISTORY, failing, router_world

RANK = "/relaygr.v1.RouterService/Rank"
LATER_FIELD = b"\xc2\x3e\x05later"
"""Field 1000 of a later version, five bytes long."""
CANDIDATES_FIELD = b"\x42"


@pytest.fixture
async def world(tmp_path):
    async with router_world(tmp_path / "etcd", "a", "b") as made:
        yield made


def raw_call(world):
    return world.pool.get(world.router.address).unary_unary(RANK, None, None)


def message_of(inner):
    """RouterServiceRankRequest around a serialized rank of any length."""
    length, left = bytearray(), len(inner)
    while left > 127:
        length.append(left & 127 | 128)
        left >>= 7
    return b"\x0a" + bytes([*length, left]) + inner


async def test_a_ranker_gets_the_bytes_of_a_rank_as_they_came(world):
    rank = ranker_pb2.RankRequest(
        user="u",
        request_id="r",
        ticket=world.ticket(world.rankers["b"]),
        history=HISTORY,
        candidates=ranker_pb2.Candidates(count=3, item_ids=bytes(range(24)), dense=b"dense"),
        request_time_s=5,
    )
    raw = rank.SerializeToString() + LATER_FIELD
    answer = router_pb2.RouterServiceRankResponse.FromString(await raw_call(world)(message_of(raw), timeout=5))
    assert answer.rank.instance_id == "b" and answer.branch == router_pb2.BRANCH_TICKET
    (_, got), *more = world.rankers["b"].asked
    assert got == ranker_pb2.RankRequest.FromString(raw) and not more
    assert got.SerializeToString() == raw


async def test_a_long_rank_goes_through_as_well(world):
    rank = ranker_pb2.RankRequest(
        user="u", history=HISTORY, candidates=ranker_pb2.Candidates(count=1, item_ids=bytes(8), dense=bytes(300_000))
    )
    await raw_call(world)(message_of(rank.SerializeToString()), timeout=5)
    asked = world.rankers["a"].asked + world.rankers["b"].asked
    assert [request for _, request in asked] == [rank]


@pytest.mark.parametrize(
    "inner",
    [
        b"\x12\x01u" + CANDIDATES_FIELD + b"\x02\x12\x05",
        b"\x12\x01u\x32\x02\x08\xff",
        b"\x12\x01\xff",
    ],
    ids=["candidates", "delta", "user"],
)
async def test_what_cannot_be_read_is_refused_alike_by_router_and_ranker(world, inner):
    error = await failing(raw_call(world)(message_of(inner), timeout=5))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "request: cannot be parsed"
