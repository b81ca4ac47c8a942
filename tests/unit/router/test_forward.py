"""What routing reads of a rank must be read where the whole messages have it."""

import pytest
from google.protobuf.message import DecodeError

from relaygr.v1 import common_pb2, forward_pb2, ranker_pb2, router_pb2
from services.router.core.binding import Branch
from services.router.forward import Ranked, answer_of_rank, rank_call_of

STANDS_FOR = {
    forward_pb2.ForwardedRank: (router_pb2.RouterServiceRankRequest,),
    forward_pb2.ForwardedRankAnswer: (router_pb2.RouterServiceRankResponse,),
    forward_pb2.RankHead: (ranker_pb2.RankRequest,),
    forward_pb2.HistoryHead: (common_pb2.History,),
    forward_pb2.CountHead: (common_pb2.Behaviours, ranker_pb2.CrossFeatures, ranker_pb2.Candidates),
    forward_pb2.RankAnswerHead: (ranker_pb2.RankResponse,),
}
LENGTH_DELIMITED = {9, 11, 12}
"""Strings, messages and bytes look alike on the wire."""


@pytest.mark.parametrize("head", STANDS_FOR, ids=lambda head: head.DESCRIPTOR.name)
def test_a_head_has_the_names_numbers_and_types_of_what_it_stands_for(head):
    for whole in STANDS_FOR[head]:
        for field in head.DESCRIPTOR.fields:
            same = whole.DESCRIPTOR.fields_by_name[field.name]
            assert field.number == same.number
            assert field.type == same.type or {field.type, same.type} <= LENGTH_DELIMITED


def test_every_message_of_the_envelope_is_checked_above():
    assert {message.DESCRIPTOR for message in STANDS_FOR} == set(forward_pb2.DESCRIPTOR.message_types_by_name.values())


def test_a_rank_that_comes_in_parts_is_their_merger():
    first = router_pb2.RouterServiceRankRequest(rank=ranker_pb2.RankRequest(user="a", request_id="r"))
    second = router_pb2.RouterServiceRankRequest(rank=ranker_pb2.RankRequest(user="b"))
    joined = first.SerializeToString() + second.SerializeToString()
    whole = router_pb2.RouterServiceRankRequest.FromString(joined).rank
    call = rank_call_of(joined)
    assert ranker_pb2.RankRequest.FromString(call.raw) == whole
    assert (call.head.user, call.head.request_id) == ("b", "r")


def test_a_message_without_a_rank_is_one_with_an_empty_rank():
    assert rank_call_of(b"").raw == b""


@pytest.mark.parametrize("garbage", [b"\xff", b"\x0a\x05abc", b"\x0a\x03\x12\x01\xff"])
def test_what_is_read_must_be_readable(garbage):
    with pytest.raises(DecodeError):
        router_pb2.RouterServiceRankRequest.FromString(garbage)
    with pytest.raises(DecodeError):
        rank_call_of(garbage)


@pytest.mark.parametrize("branch", Branch)
def test_an_answer_reads_as_the_whole_message(branch):
    rank = ranker_pb2.RankResponse(logits=b"1234", tasks=["click"], tier=ranker_pb2.TIER_DRAM)
    raw = answer_of_rank(Ranked(rank.SerializeToString(), branch, 2))
    assert router_pb2.RouterServiceRankResponse.FromString(raw) == router_pb2.RouterServiceRankResponse(
        rank=rank, branch=f"BRANCH_{branch.value}", attempts=2
    )
