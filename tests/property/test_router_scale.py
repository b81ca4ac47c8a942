"""What makes choices quick at a thousand instances changes none: each is compared with a walk over everybody."""

from __future__ import annotations

import random
from collections import Counter
from itertools import groupby

from hypothesis import given, settings
from hypothesis import strategies as st

from relaygr.domain.instance import InstanceState
from relaygr.domain.slots import SLOTS, slot_of
from services.router.core.binding import Binding, Branch
from services.router.core.events import (
    CallFailed,
    Departed,
    FenceReason,
    HealthAnswered,
    Listed,
    PinRead,
    Registered,
    TableRead,
    UserPlaced,
)
from services.router.core.load import PROMISE_NS, LoadView, Queues
from services.router.core.orders import KEPT, SlotOrders
from services.router.core.slots import assign, next_table, ring_order
from tests.property.router_model import WalkingBinding, walking_assign
from tests.unit.router.fleet import GIB, MODEL, OTHER_MODEL, record, subject, ticket_for

MS = 1_000_000
NAMES = [f"i{number}" for number in range(16)]
names = st.sampled_from(NAMES)
MODELS = [MODEL, MODEL, MODEL, OTHER_MODEL]


class Twins:
    """A quick core and a walking one, told the same and asked the same, by chance."""

    def __init__(self, seed):
        options = {"spill_floor_ns": 5 * MS, "pins_max": 16, "calls_max": 64, "members_max": 14, "tables_max": 2}
        options["warm_up_ns"] = 100 * MS
        self.chance = random.Random(seed)
        self.quick, self.walking = Binding(**options), WalkingBinding(**options)
        self.cores = [self.quick, self.walking]
        self.now_ns = 0
        self.calls = []
        self.branches = Counter()
        self.feed(Listed(tuple(record(name) for name in self.chance.sample(NAMES, 9))))

    def same(self, ask):
        first, second = (ask(core) for core in self.cores)
        assert first == second
        return first

    def feed(self, event):
        return self.same(lambda core: core.handle(event, self.now_ns))

    def time_passes(self):
        self.now_ns += self.chance.choice([0, 1, MS, 3 * MS, 20 * MS, PROMISE_NS])
        self.same(lambda core: core.expire(self.now_ns))

    def an_instance_changes(self):
        state = self.chance.choice([InstanceState.READY] * 4 + [InstanceState.DRAINING])
        epoch, budget = self.chance.choice([1, 1, 1, 2]), self.chance.choice([GIB, GIB, GIB, 2 * GIB, 0])
        one = record(
            self.chance.choice(NAMES), epoch=epoch, model=self.chance.choice(MODELS), budget=budget, state=state
        )
        self.feed(Registered(one) if self.chance.random() < 0.7 else Departed(one.instance_id))

    def a_fence_changes(self):
        member = self.chance.choice(list(self.quick.members) or [None])
        if member is not None:
            one = member.record
            is_well = not member.is_usable and self.chance.random() < 0.8
            fence = CallFailed(one.instance_id, one.epoch, FenceReason.UNREACHABLE)
            self.feed(HealthAnswered(one.instance_id, one.epoch, True) if is_well else fence)

    def slots_are_planned(self):
        model = self.chance.choice(MODELS)
        table = next_table(self.quick.table(model.key), self.quick.weights(model.key))
        self.feed(TableRead(model.key, table if self.chance.random() < 0.8 else None))

    def an_instance_reports(self):
        name, queues = self.chance.choice(NAMES), Queues(backlog_ns=self.chance.randrange(40 * MS))
        for core in self.cores:
            core.load.report(name, queues, self.now_ns)

    def a_user_comes(self):
        user, will_admit, work_ns = subject(self.chance.randrange(60)), self.chance.random() < 0.6, 9 * MS
        options = {"will_admit": will_admit, "window_ns": 500 * MS, "now_ns": self.now_ns}
        found = self.same(lambda core: core.resolve(user, **options))
        if found is None:
            return
        self.branches[found.branch] += 1
        one = found.record
        if will_admit:
            self.feed(UserPlaced(user.user_hash, one.instance_id, one.epoch, work_ns, MS, 500 * MS))
        if found.pin:
            self.feed(PinRead(user.user_hash, one.instance_id, one.epoch, self.now_ns + 500 * MS))
        is_rank = self.chance.random() < 0.5
        numbers = [core.load.begin(one.instance_id, work_ns, self.now_ns, is_rank=is_rank) for core in self.cores]
        self.calls.append(numbers)

    def a_rank_comes(self):
        chance = self.chance
        user, one = subject(chance.randrange(60)), record(chance.choice(NAMES), model=chance.choice(MODELS))
        ticket = ticket_for(one) if chance.random() < 0.5 else None
        tried = chance.sample(NAMES, chance.choice([0, 0, 0, 1, 2]))
        found = self.same(lambda core: core.route_rank(user, ticket, tried, self.now_ns))
        if found is not None:
            self.branches[found.branch] += 1

    def a_call_ends(self):
        if self.calls:
            queues = self.chance.choice([None, Queues(backlog_ns=self.chance.randrange(20 * MS))])
            numbers = self.calls.pop(self.chance.randrange(len(self.calls)))
            for core, number in zip(self.cores, numbers, strict=True):
                core.load.end(number, self.now_ns, queues)

    def live(self, steps):
        often = [self.a_user_comes] * 6 + [self.a_rank_comes] * 3 + [self.a_call_ends] * 5 + [self.a_fence_changes] * 2
        rest = [self.time_passes, self.an_instance_changes, self.slots_are_planned, self.an_instance_reports]
        for _ in range(steps):
            self.chance.choice([*often, *rest])()
            for core in self.cores:
                core.check()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_every_choice_is_that_of_a_walk_over_all_instances(seed):
    Twins(seed).live(400)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_while_instances_join_and_drain_a_draining_one_admits_nobody_and_keeps_its_tickets(seed):
    twins = Twins(seed)
    for _ in range(60):
        twins.live(5)
        core, user = twins.quick, subject(twins.chance.randrange(60))
        members = [member for member in core.members if member.model_key == core.default_model()]
        found = core.resolve(user, will_admit=True, window_ns=500 * MS, now_ns=twins.now_ns)
        if any(member.is_ready and member.is_usable for member in members):
            assert found.record.state is InstanceState.READY
        for member in members:
            kept = core.route_rank(user, ticket_for(member.record), (), twins.now_ns)
            assert (kept.branch is Branch.TICKET) == member.is_usable


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 3))
def test_during_a_join_a_user_moves_once_at_most_and_only_to_the_joiners(seed, fleet, joiners):
    chance, core = random.Random(seed), Binding(warm_up_ns=100 * MS)
    names = [f"i{number}" for number in range(fleet + joiners)]
    core.handle(Listed(tuple(record(name) for name in names[:fleet])), 0)
    users = [subject(chance.random()) for _ in range(60)]
    core.handle(TableRead(MODEL.key, next_table(None, core.weights(MODEL.key))), 0)
    places = [[core.resolve(user, now_ns=0).record.instance_id for user in users]]
    for name in names[fleet:]:
        core.handle(Registered(record(name)), 0)
    core.handle(TableRead(MODEL.key, next_table(core.table(MODEL.key), core.weights(MODEL.key))), 0)
    times_ns = range(0, 101 * MS, 10 * MS)
    places += [[core.resolve(user, now_ns=now_ns).record.instance_id for user in users] for now_ns in times_ns]
    owners = core.table(MODEL.key).owners
    for user, *seen in zip(users, *places, strict=True):
        stays = [name for name, _ in groupby(seen)]
        assert len(stays) <= 2 and set(stays[1:]) <= set(names[fleet:])
        assert stays[-1] == owners[slot_of(user.user)]


def test_such_a_history_takes_every_branch():
    twins = Twins(1)
    twins.live(3000)
    assert set(twins.branches) == set(Branch)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_a_running_total_is_the_sum_of_the_loads_at_any_time(seed):
    chance = random.Random(seed)
    load, fleet, now_ns, calls = LoadView(), dict.fromkeys("abcde"), 0, []
    for _ in range(200):
        now_ns += chance.choice([0, 1, MS, 7 * MS, PROMISE_NS, -MS])
        name = chance.choice("abcdef")
        match chance.randrange(5):
            case 0:
                load.report(name, Queues(backlog_ns=chance.randrange(20 * MS)), now_ns)
            case 1:
                calls.append(load.begin(name, chance.randrange(9 * MS), now_ns))
            case 2 if calls:
                queues = chance.choice([None, Queues(backlog_ns=chance.randrange(5 * MS))])
                load.end(calls.pop(chance.randrange(len(calls))), now_ns, queues)
            case 3:
                load.promise(name, chance.randrange(9 * MS), now_ns)
            case 4 if chance.random() < 0.2:
                load.forget(name)
        assert load.total_ns("m", fleet, now_ns) == sum(load.load_ns(each, now_ns) for each in fleet)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_a_slots_order_is_the_same_however_the_instances_came_to_be(seed):
    chance = random.Random(seed)
    fleet = [f"i{number}" for number in range(30)]
    orders, weights = SlotOrders(), dict.fromkeys(fleet[:20], 1)
    for _ in range(40):
        orders.renew(weights)
        orders.check()
        for slot in (3, 700):
            looked_at = chance.choice([0, 2, KEPT, len(fleet)])
            found = [each for _, each in zip(range(looked_at), orders.walk(slot), strict=False)]
            assert tuple(found) == ring_order(slot, weights)[:looked_at]
        for each in chance.sample(fleet, chance.choice([1, 1, 3, 15])):
            weights[each] = chance.choice([1, 1, 2, 0])
            if chance.random() < 0.5 and len(weights) > 1:
                del weights[each]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.dictionaries(names, st.integers(0, 5), min_size=1), min_size=1, max_size=4))
def test_a_plan_is_the_one_that_looks_at_everybody_for_each_slot(fleets):
    owners = None
    for weights in fleets:
        following = assign(owners, weights)
        assert following == walking_assign(owners, weights)
        owners = following
    assert len(owners) == SLOTS


def test_what_is_kept_of_a_thousand_instances_orders_is_a_few_a_slot():
    orders = SlotOrders()
    orders.renew({f"i{number}": 1 for number in range(1000)})
    for slot in range(50):
        assert next(orders.walk(slot))
    assert len(orders) == 50 * KEPT
