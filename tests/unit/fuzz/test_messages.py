"""Wrong messages are wrong in every way, and honest ones are not made wrong by accident."""

from __future__ import annotations

from random import Random

import pytest
from google.protobuf.message import DecodeError

from relaygr.domain.ticket import is_genuine
from relaygr.v1.common_pb2 import InlineHistory
from relaygr.v1.ranker_pb2 import RankRequest
from relaygr.v1.router_pb2 import RouterServicePreInferRequest
from tests.fuzz import ground, messages, raw
from tests.fuzz.targets import router

TRIES = 600


WRITTEN = router.rank(Random(1)).rank.SerializeToString()
"""Once, since tickets tell the time."""


def rank() -> RankRequest:
    return RankRequest.FromString(WRITTEN)


def test_the_same_seed_makes_the_same_message() -> None:
    made = []
    for _ in range(2):
        random, message = Random(3), rank()
        for _ in range(20):
            messages.changed(random, message, ground.KEY)
        made.append(message.SerializeToString(deterministic=True))
    assert made[0] == made[1]


def test_changes_reach_every_field_also_inside_bytes() -> None:
    random, seen, inner = Random(4), set(), 0
    for _ in range(TRIES):
        before, after = rank(), rank()
        messages.changed(random, after, ground.KEY)
        seen |= {field.name for field in RankRequest.DESCRIPTOR.fields if _differ(before, after, field.name)}
        inner += before.history.inline != after.history.inline and _is_inline(after.history.inline)
    assert seen == {field.name for field in RankRequest.DESCRIPTOR.fields}
    assert inner > TRIES / 50


def test_many_changed_tickets_stay_genuine_and_some_do_not() -> None:
    random, genuine, forged = Random(5), 0, 0
    for _ in range(TRIES):
        message = router.pre_infer(Random(1))
        claims = message.pre_infer.ticket.claims
        messages.changed(random, message, ground.KEY)
        ticket = message.pre_infer.ticket
        if ticket.claims != claims:
            is_ours = is_genuine(ticket.claims, ticket.mac, ground.KEY)
            genuine, forged = genuine + is_ours, forged + (not is_ours)
    assert genuine > TRIES / 20 and forged > TRIES / 50


def test_bytes_are_mutated_into_what_parses_and_what_does_not() -> None:
    random, parsed, broken = Random(6), 0, 0
    written = rank().SerializeToString()
    for _ in range(TRIES):
        try:
            RankRequest.FromString(messages.mutated_bytes(random, written, written))
            parsed += 1
        except DecodeError:
            broken += 1
    assert min(parsed, broken) > TRIES / 10


@pytest.mark.parametrize(
    ("path", "is_there"),
    [
        ("pre_infer.ticket", True),
        ("pre_infer.history.cut.anchor", True),
        ("pre_infer.history.inline.behaviours.item_ids", True),
        ("pre_infer.ticket.claims.user", True),
        ("ticket", False),
        ("pre_infer.history.cut.anchor.more", False),
        ("", False),
    ],
)
def test_a_path_is_followed_into_messages_that_are_bytes(path: str, is_there: bool) -> None:
    assert messages.has_field(RouterServicePreInferRequest, path) is is_there


def test_smaller_messages_have_less_in_them() -> None:
    whole = rank().ByteSize()
    found = [one.ByteSize() for one in messages.smaller(rank())]
    assert len(found) > 10 and all(one <= whole for one in found) and min(found) < whole / 2


def test_files_come_back_as_they_were_packed() -> None:
    files = {"meta.json": b"{}\n\n", "item_ids.npy": bytes(range(256)), "empty": b""}
    assert raw.unpacked(raw.packed(files)) == files
    assert raw.unpacked(b"../up 3\n\nabc") == {}


def _differ(before: RankRequest, after: RankRequest, name: str) -> bool:
    return bool(getattr(before, name) != getattr(after, name))


def _is_inline(data: bytes) -> bool:
    try:
        return bool(InlineHistory.FromString(data).behaviours.count)
    except DecodeError:
        return False
