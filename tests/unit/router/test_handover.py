"""A slot that goes to a joiner goes bit by bit, and at once where there is nobody to keep it."""

from __future__ import annotations

import pytest

from relaygr.domain.identity import UserKey
from relaygr.domain.instance import InstanceState
from relaygr.domain.slots import SLOTS
from services.router.core.binding import Binding, Branch
from services.router.core.events import CallFailed, Departed, FenceReason, Listed, Registered, TableRead, UserPlaced
from services.router.core.handover import FIRST_SHARE, Handovers, turn_of
from services.router.core.recent import RECENT_NS
from services.router.core.slots import SlotTable
from tests.unit.router.fleet import MODEL, record, subject

WARM_UP_NS = 30_000_000_000
USERS = [subject(number) for number in range(400)]


def table(version, owner):
    return TableRead(MODEL.key, SlotTable(version, (owner,) * SLOTS))


def joined(*, warm_up_ns=WARM_UP_NS):
    """All slots were a's and are b's from time 0 on."""
    binding = Binding(warm_up_ns=warm_up_ns)
    binding.handle(Listed((record("a"),)), 0)
    binding.handle(table(1, "a"), 0)
    binding.handle(Registered(record("b")), 0)
    binding.handle(table(2, "b"), 0)
    return binding


def placed_on(binding, name, now_ns):
    chosen = [binding.resolve(user, now_ns=now_ns) for user in USERS]
    return {user.user_hash for user, one in zip(USERS, chosen, strict=True) if one.record.instance_id == name}


def test_a_joiner_gets_a_growing_share_of_its_slots_users():
    binding = joined()
    shares = [len(placed_on(binding, "b", WARM_UP_NS * tenth // 10)) / len(USERS) for tenth in range(11)]
    assert shares[0] == pytest.approx(FIRST_SHARE, abs=0.05)
    assert shares[5] == pytest.approx(FIRST_SHARE + (1 - FIRST_SHARE) / 2, abs=0.07)
    assert shares == sorted(shares) and shares[-1] == 1


def test_a_user_that_moved_stays():
    binding = joined()
    before = set()
    for tenth in range(11):
        now = placed_on(binding, "b", WARM_UP_NS * tenth // 10)
        assert before <= now
        before = now


def test_without_a_warm_up_a_slot_moves_at_once():
    assert len(placed_on(joined(warm_up_ns=0), "b", 0)) == len(USERS)


@pytest.mark.parametrize(
    "event",
    [
        Departed("a"),
        CallFailed("a", 1, FenceReason.UNREACHABLE),
        Registered(record("a", state=InstanceState.DRAINING)),
    ],
)
def test_a_slot_moves_at_once_when_its_old_owner_is_not_there_to_keep_it(event):
    binding = joined()
    binding.handle(event, 1)
    assert {binding.resolve(user, now_ns=1).branch for user in USERS} == {Branch.SLOT}
    assert len(placed_on(binding, "b", 1)) == len(USERS)


def test_a_rank_without_a_ticket_goes_where_the_user_still_is():
    binding = joined()
    for user in USERS:
        place = binding.resolve(user, now_ns=5).record
        assert binding.route_rank(user, None, (), 5).record == place


def test_a_slot_that_moves_on_takes_along_only_who_had_moved():
    handovers, owners = Handovers(warm_up_ns=100), [(name,) * SLOTS for name in "abc"]
    user = UserKey("t", next(str(number) for number in range(99) if 0.5 < turn_of(UserKey("t", str(number))) < 0.9))
    handovers.begin("m", owners[0], owners[1], 0)
    handovers.begin("m", owners[1], owners[2], 10)
    assert handovers.holder("m", 0, user, 10) == "a"
    assert handovers.holder("m", 0, user, 100) is None


def test_a_slot_that_comes_back_has_nobody_to_wait_for():
    handovers, owners = Handovers(warm_up_ns=100), [(name,) * SLOTS for name in "ab"]
    handovers.begin("m", owners[0], owners[1], 0)
    assert len(handovers) == SLOTS
    handovers.begin("m", owners[1], owners[0], 10)
    assert len(handovers) == 0


def test_moves_that_are_through_are_forgotten_with_the_next_table():
    handovers = Handovers(warm_up_ns=100)
    handovers.begin("m", ("a",) * SLOTS, ("b",) * SLOTS, 0)
    handovers.begin("m", ("b",) * SLOTS, ("b",) * SLOTS, 100)
    assert len(handovers) == 0


def test_who_was_lately_on_an_instance_that_drains_goes_to_the_slots_owner():
    binding = Binding()
    binding.handle(Listed(tuple(record(name) for name in "abcd")), 0)
    binding.handle(table(1, "d"), 0)
    for user in USERS:
        binding.handle(UserPlaced(user.user_hash, "a", 1, 0, 0, 0), 1)
    assert {binding.resolve(user, now_ns=2).branch for user in USERS} == {Branch.RECENT}
    binding.handle(Registered(record("a", state=InstanceState.DRAINING)), 3)
    for user in USERS:
        found = binding.resolve(user, now_ns=4)
        assert (found.record.instance_id, found.branch) == ("d", Branch.SLOT)
    assert RECENT_NS > 4
