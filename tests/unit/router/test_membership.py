"""Who is there: fences, epochs, and the doubt about great losses."""

import pytest

from relaygr.domain.instance import InstanceState
from services.router.core.effects import ChangeMembers, ConfirmLoss, ForgetPeer, StartProbe
from services.router.core.events import CallFailed, Departed, FenceReason, HealthAnswered, Listed, Registered
from services.router.core.membership import (
    DOUBT_CHECK_NS,
    GUARD_WINDOW_NS,
    PROBE_FIRST_NS,
    PROBE_MAX_NS,
    STRIKE_MEMORY_NS,
    Membership,
)
from tests.unit.router.fleet import record

GONE = FenceReason.UNREACHABLE


def fleet(*names, **options):
    members = Membership(**options)
    members.handle(Listed(tuple(record(name) for name in names)), 0)
    return members


def ids(members):
    return [member.record.instance_id for member in members]


def test_the_first_failed_call_fences_and_the_second_changes_nothing():
    members = fleet("a", "b")
    effects = members.handle(CallFailed("a", 1, GONE), 5)
    assert effects == [StartProbe("a", 1, "a:1", GONE, PROBE_FIRST_NS)]
    assert members.is_fenced("a", 1)
    assert members.handle(CallFailed("a", 1, GONE), 6) == []
    assert not members.is_fenced("b", 1)


def test_a_failure_of_an_earlier_boot_fences_nobody():
    members = fleet("a")
    members.handle(Registered(record("a", epoch=2)), 1)
    assert members.handle(CallFailed("a", 1, GONE), 2) == []
    assert not members.is_fenced("a", 2)


def test_a_health_check_that_answers_lifts_the_fence():
    members = fleet("a")
    members.handle(CallFailed("a", 1, GONE), 1)
    members.handle(HealthAnswered("a", 1, False), 2)
    assert members.is_fenced("a", 1)
    members.handle(HealthAnswered("a", 1, True), 3)
    assert not members.is_fenced("a", 1)


def test_a_new_epoch_lifts_the_fence_and_the_same_epoch_does_not():
    members = fleet("a")
    members.handle(CallFailed("a", 1, GONE), 1)
    members.handle(Registered(record("a")), 2)
    assert members.is_fenced("a", 1)
    effects = members.handle(Registered(record("a", epoch=2)), 3)
    assert effects == [ForgetPeer("a", 1, "a:1"), ChangeMembers()]
    assert members.get("a").is_usable


def test_an_answer_of_an_earlier_boot_lifts_no_fence():
    members = fleet("a")
    members.handle(Registered(record("a", epoch=2)), 1)
    members.handle(CallFailed("a", 2, GONE), 2)
    members.handle(HealthAnswered("a", 1, True), 3)
    assert members.is_fenced("a", 2)


def test_an_instance_that_keeps_failing_is_probed_later_each_time():
    members = fleet("a")
    delays = []
    for round_index in range(10):
        (probe,) = members.handle(CallFailed("a", 1, GONE), round_index)
        delays.append(probe.delay_ns)
        members.handle(HealthAnswered("a", 1, True), round_index)
    assert delays[:3] == [PROBE_FIRST_NS, 2 * PROBE_FIRST_NS, 4 * PROBE_FIRST_NS]
    assert delays[-1] == PROBE_MAX_NS
    (probe,) = members.handle(CallFailed("a", 1, GONE), STRIKE_MEMORY_NS + 100)
    assert probe.delay_ns == PROBE_FIRST_NS


def test_one_loss_is_believed():
    members = fleet("a", "b")
    assert members.handle(Departed("a"), 1) == [ForgetPeer("a", 1, "a:1"), ChangeMembers()]
    assert ids(members) == ["b"]


def test_a_fifth_of_many_is_believed_and_more_is_not():
    names = [f"i{index}" for index in range(10)]
    members = fleet(*names)
    members.handle(Listed(tuple(record(name) for name in names[2:])), 1)
    assert len(members) == 8
    members = fleet(*names)
    effects = members.handle(Listed(tuple(record(name) for name in names[3:])), 1)
    assert effects == [ConfirmLoss(name, 1, f"{name}:1") for name in names[:3]]
    assert len(members) == 10


def test_losses_one_after_another_are_doubted_too():
    members = fleet("a", "b", "c", "d")
    assert members.handle(Departed("a"), 1)[-1] == ChangeMembers()
    assert members.handle(Departed("b"), 2) == [ConfirmLoss("b", 1, "b:1")]
    assert ids(members) == ["b", "c", "d"]


def test_losses_far_apart_are_believed():
    members = fleet("a", "b", "c", "d")
    members.handle(Departed("a"), 1)
    members.handle(Departed("b"), 2 + GUARD_WINDOW_NS)
    assert ids(members) == ["c", "d"]


def test_an_empty_listing_removes_nobody_until_health_checks_agree():
    members = fleet("a", "b")
    assert len(members.handle(Listed(()), 1)) == 2
    assert members.get("a").is_usable
    members.handle(HealthAnswered("a", 1, True), 2)
    members.handle(HealthAnswered("b", 1, False), 2)
    assert ids(members) == ["a"]


def test_a_doubted_instance_is_checked_again_until_it_is_shown_again():
    members = fleet("a", "b")
    members.handle(Listed(()), 1)
    assert members.deadline_ns() == 1 + DOUBT_CHECK_NS
    assert members.expire(DOUBT_CHECK_NS) == []
    assert len(members.expire(1 + DOUBT_CHECK_NS)) == 2
    members.handle(Listed((record("a"), record("b"))), 2 + DOUBT_CHECK_NS)
    assert members.deadline_ns() is None
    assert members.handle(HealthAnswered("a", 1, False), 3 + DOUBT_CHECK_NS) == []
    assert ids(members) == ["a", "b"]


def test_a_second_empty_listing_does_not_ask_again():
    members = fleet("a", "b")
    members.handle(Listed(()), 1)
    assert members.handle(Listed(()), 2) == []


def test_an_announced_leave_is_believed_whoever_else_leaves():
    members = fleet()
    members.handle(Listed(tuple(record(name, state=InstanceState.DRAINING) for name in "abcd")), 0)
    members.handle(Listed(()), 1)
    assert len(members) == 0


def test_a_changed_record_of_the_same_boot_is_told_and_an_equal_one_is_not():
    members = fleet("a")
    assert members.handle(Registered(record("a")), 1) == []
    assert members.handle(Registered(record("a", state=InstanceState.DRAINING)), 2) == [ChangeMembers()]
    assert not members.get("a").is_ready


def test_registrations_beyond_the_maximum_are_ignored_and_counted():
    members = fleet("a", "b", "c", members_max=2)
    assert ids(members) == ["a", "b"]
    assert members.refused_records == 1
    members.check()


def test_the_check_finds_a_broken_table():
    members = fleet("a")
    members.get("a").fence = GONE
    with pytest.raises(AssertionError):
        members.check()
