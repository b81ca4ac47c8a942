"""For any history of joins and leaves: little moves, and everybody gets a share."""

from __future__ import annotations

import math
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from relaygr.domain.slots import SLOTS
from services.router.core.slots import SlotTable, assign, next_table, ring_order

names = st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=12)
fleets = st.sets(names, min_size=1, max_size=40)
budgets = st.dictionaries(names, st.integers(1, 64), min_size=1, max_size=12)


def moved(before, after):
    return [slot for slot in range(SLOTS) if before[slot] != after[slot]]


@settings(max_examples=40, deadline=None)
@given(fleets, names)
def test_a_join_moves_at_most_its_share_and_only_to_the_joiner(fleet, joiner):
    fleet = fleet - {joiner}
    if not fleet:
        return
    before = assign(None, dict.fromkeys(fleet, 1))
    after = assign(before, dict.fromkeys(fleet | {joiner}, 1))
    changed = moved(before, after)
    assert len(changed) <= 1.5 * SLOTS / (len(fleet) + 1)
    assert {after[slot] for slot in changed} == {joiner}


@settings(max_examples=40, deadline=None)
@given(fleets, st.data())
def test_a_leave_moves_only_the_slots_of_the_one_that_left(fleet, data):
    if len(fleet) < 2:
        return
    before = assign(None, dict.fromkeys(fleet, 1))
    leaver = data.draw(st.sampled_from(sorted(fleet)))
    after = assign(before, dict.fromkeys(fleet - {leaver}, 1))
    assert {before[slot] for slot in moved(before, after)} == {leaver}
    assert leaver not in after


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.booleans(), names), min_size=1, max_size=20))
def test_shares_stay_even_through_any_history(history):
    fleet: set[str] = set()
    table = None
    for is_join, name in history:
        fleet = fleet | {name} if is_join else fleet - {name}
        following = next_table(table, dict.fromkeys(fleet, 1))
        if following is None:
            continue
        assert table is None or following.version == table.version + 1
        table = SlotTable.from_json(following.to_json())
        owned = Counter(table.owners)
        assert set(owned) == fleet
        assert max(owned.values()) <= math.ceil(SLOTS / len(fleet))
        assert min(owned.values()) >= SLOTS / len(fleet) / 2 - 1


@settings(max_examples=40, deadline=None)
@given(budgets)
def test_shares_follow_budgets(weights):
    owned = Counter(assign(None, weights))
    for name, weight in weights.items():
        share = SLOTS * weight / sum(weights.values())
        assert abs(owned[name] - share) <= 1


@settings(max_examples=40, deadline=None)
@given(budgets, st.integers(0, SLOTS - 1), names)
def test_the_order_is_everybodys_and_a_joiner_disturbs_nobody(weights, slot, joiner):
    order = ring_order(slot, weights)
    assert sorted(order) == sorted(weights)
    backwards = dict(reversed(weights.items()))
    assert ring_order(slot, backwards) == order
    with_joiner = ring_order(slot, {**weights, joiner: weights.get(joiner, 7)})
    assert [each for each in with_joiner if each != joiner] == [each for each in order if each != joiner]


@settings(max_examples=20, deadline=None)
@given(fleets, names)
def test_plans_do_not_depend_on_the_order_of_the_members(fleet, joiner):
    before = assign(None, dict.fromkeys(sorted(fleet), 1))
    assert before == assign(None, dict.fromkeys(sorted(fleet, reverse=True), 1))
    joined = fleet | {joiner}
    forwards = assign(before, dict.fromkeys(sorted(joined), 1))
    assert forwards == assign(before, dict.fromkeys(sorted(joined, reverse=True), 1))
