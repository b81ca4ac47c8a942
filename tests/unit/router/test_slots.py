"""The slot table: shares, movement, validation."""

import json
from collections import Counter

import pytest

from relaygr.domain.slots import SLOTS
from services.router.core.slots import InvalidTable, SlotTable, assign, next_table, ring_order


def equal(*names):
    return dict.fromkeys(names, 1)


def test_a_table_survives_its_json():
    table = SlotTable(3, assign(None, equal("a", "b", "c")))
    assert SlotTable.from_json(table.to_json()) == table
    assert len(table.to_json()) < 8192


def broken(**changes):
    value = json.loads(SlotTable(1, assign(None, equal("a", "b"))).to_json())
    value.update(changes)
    return json.dumps(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        "{",
        b"\xff\xfe",
        broken(version=0),
        broken(version=True),
        broken(version="1"),
        broken(instances=[]),
        broken(instances=["a", "a"]),
        broken(instances=["a", 5]),
        broken(instances=["a", "x" * 1000]),
        broken(instances="ab"),
        broken(slots=[0] * (SLOTS - 1)),
        broken(slots=[0] * (SLOTS - 1) + [2]),
        broken(slots=[0] * (SLOTS - 1) + [-1]),
        broken(slots=[0] * (SLOTS - 1) + [0.5]),
        broken(padding="x" * 300_000),
    ],
)
def test_what_is_not_a_table_is_refused(text):
    with pytest.raises(InvalidTable):
        SlotTable.from_json(text)


def test_shares_follow_the_budgets():
    owned = Counter(assign(None, {"big": 3, "small": 1}))
    assert owned == {"big": SLOTS * 3 // 4, "small": SLOTS // 4}


def test_budgets_of_zero_mean_equal_shares():
    assert Counter(assign(None, {"a": 0, "b": 0})) == {"a": SLOTS // 2, "b": SLOTS // 2}


def test_a_table_that_fits_is_left_alone():
    table = next_table(None, equal("a", "b"))
    assert table.version == 1
    assert next_table(table, equal("a", "b")) is None
    assert next_table(table, {}) is None


def test_a_changed_table_has_the_next_version():
    table = next_table(None, equal("a", "b"))
    assert next_table(table, equal("a", "b", "c")).version == 2


@pytest.mark.parametrize("count", [2, 36, 100, 200])
def test_a_joiner_gets_its_whole_share_at_any_size(count):
    names = [f"i{index}" for index in range(count)]
    before = assign(None, equal(*names))
    after = assign(before, equal(*names, "new"))
    changed = [slot for slot in range(SLOTS) if before[slot] != after[slot]]
    assert Counter(after)["new"] == SLOTS // (count + 1) == len(changed)


@pytest.mark.parametrize("count", [2, 36, 100, 200, 300])
def test_a_leaver_disturbs_nobody_at_any_size(count):
    names = [f"i{index}" for index in range(count)]
    owners = assign(None, equal(*names))
    while len(names) > max(1, count - 12):
        leaver = names.pop(len(names) // 2)
        before, owners = owners, assign(owners, equal(*names))
        assert {before[slot] for slot in range(SLOTS) if before[slot] != owners[slot]} == {leaver}


def test_the_last_ones_slots_all_move_to_whoever_is_there():
    assert set(assign(assign(None, equal("a")), equal("b"))) == {"b"}


def test_orders_differ_by_slot_so_that_a_lost_instances_users_spread():
    seconds = Counter(ring_order(slot, equal("a", "b", "c", "d"))[0] for slot in range(SLOTS))
    assert set(seconds) == {"a", "b", "c", "d"}
    assert max(seconds.values()) < SLOTS // 2


def test_heavier_instances_come_earlier_more_often():
    firsts = Counter(ring_order(slot, {"big": 3, "small": 1})[0] for slot in range(SLOTS))
    assert 0.7 < firsts["big"] / SLOTS < 0.8
