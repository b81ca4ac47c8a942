"""For any sequence of events: fenced ones are left alone, load is bounded, tables are capped, runs repeat."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from services.router.core.binding import BOUND, Binding, Branch
from services.router.core.effects import ConfirmLoss
from services.router.core.events import (
    CallFailed,
    Departed,
    FenceReason,
    HealthAnswered,
    Listed,
    PinDropped,
    PinRead,
    Registered,
    TableRead,
    UserPlaced,
)
from services.router.core.load import Queues
from services.router.core.membership import GUARD_SHARE
from services.router.core.slots import next_table
from tests.unit.router.fleet import MODEL, OTHER_MODEL, record, subject, ticket_for

MS = 1_000_000
NAMES = "abcdef"
names = st.sampled_from(NAMES)
users = st.integers(0, 40)
models = st.sampled_from([MODEL, MODEL, MODEL, OTHER_MODEL])
PINS_MAX = 8
CALLS_MAX = 16
MEMBERS_MAX = 5


class Routers(RuleBasedStateMachine):
    """Two cores that are told the same must do the same."""

    def __init__(self):
        super().__init__()
        options = {
            "spill_floor_ns": 5 * MS,
            "pins_max": PINS_MAX,
            "calls_max": CALLS_MAX,
            "members_max": MEMBERS_MAX,
            "tables_max": 2,
        }
        self.cores = [Binding(**options), Binding(**options)]
        self.now_ns = 0
        self.calls: list[tuple[int, int]] = []

    @property
    def core(self) -> Binding:
        return self.cores[0]

    def epoch_of(self, name, is_current):
        member = self.core.members.get(name)
        return member.record.epoch if is_current and member is not None else 9

    @initialize(shown=st.sets(names, min_size=2))
    def begin(self, shown):
        self.listed(shown)

    def feed(self, event):
        before = len(self.core.members)
        first, second = (core.handle(event, self.now_ns) for core in self.cores)
        assert first == second
        if any(isinstance(effect, ConfirmLoss) for effect in first):
            assert len(self.core.members) * GUARD_SHARE >= before * (GUARD_SHARE - 1)

    @rule(step_ms=st.integers(0, 4000))
    def time_passes(self, step_ms):
        self.now_ns += step_ms * MS
        first, second = (core.expire(self.now_ns) for core in self.cores)
        assert first == second
        deadline_ns = self.core.deadline_ns()
        assert deadline_ns is None or deadline_ns > self.now_ns

    @rule(name=names, epoch=st.integers(1, 3), model=models)
    def registers(self, name, epoch, model):
        self.feed(Registered(record(name, epoch=epoch, model=model)))

    @rule(shown=st.sets(names))
    def listed(self, shown):
        self.feed(Listed(tuple(record(name) for name in sorted(shown))))

    @rule(name=names)
    def departs(self, name):
        self.feed(Departed(name))

    @rule(name=names, is_current=st.booleans(), reason=st.sampled_from(FenceReason))
    def fails(self, name, is_current, reason):
        epoch = self.epoch_of(name, is_current)
        self.feed(CallFailed(name, epoch, reason))
        assert not self.core.members.is_current(name, epoch) or self.core.members.is_fenced(name, epoch)

    @rule(name=names, is_current=st.booleans(), is_serving=st.booleans())
    def is_checked(self, name, is_current, is_serving):
        epoch = self.epoch_of(name, is_current)
        self.feed(HealthAnswered(name, epoch, is_serving))
        assert not (is_serving and self.core.members.is_fenced(name, epoch))

    @rule(model=st.sampled_from([MODEL, OTHER_MODEL]))
    def planned(self, model):
        self.feed(TableRead(model.key, next_table(self.core.table(model.key), self.core.weights(model.key))))

    @rule(user=users, name=names, epoch=st.integers(1, 2), window_ms=st.integers(0, 3000))
    def pinned(self, user, name, epoch, window_ms):
        self.feed(PinRead(subject(user).user_hash, name, epoch, self.now_ns + window_ms * MS))

    @rule(user=users)
    def unpinned(self, user):
        self.feed(PinDropped(subject(user).user_hash))

    @rule(name=names, backlog_ms=st.integers(0, 200))
    def reports(self, name, backlog_ms):
        for core in self.cores:
            core.load.report(name, Queues(backlog_ns=backlog_ms * MS), self.now_ns)

    @rule(user=users, will_admit=st.booleans(), expected_ms=st.integers(0, 50))
    def resolves(self, user, will_admit, expected_ms):
        options = {"will_admit": will_admit, "window_ns": 500 * MS, "now_ns": self.now_ns}
        first, second = (core.resolve(subject(user), **options) for core in self.cores)
        assert first == second
        assert (first is None) == (len(self.core.members) == 0)
        if first is None:
            return
        self.check_choice(first, self.core.candidates(None))
        assert first.pin is None or (will_admit and first.branch is not Branch.SLOT)
        if first.pin is not None:
            self.feed(PinRead(first.pin.user_hash, first.pin.instance_id, first.pin.epoch, self.now_ns + 500 * MS))
        self.calls.append(
            tuple(core.load.begin(first.record.instance_id, expected_ms * MS, self.now_ns) for core in self.cores)
        )

    @rule(user=users, name=names, production_ms=st.integers(0, 50), rank_ms=st.integers(0, 10))
    def is_placed(self, user, name, production_ms, rank_ms):
        self.feed(UserPlaced(subject(user).user_hash, name, 1, production_ms * MS, rank_ms * MS, 500 * MS))

    @rule(user=users, name=names, epoch=st.integers(1, 2), model=models, tried=st.sets(names, max_size=3))
    def ranks(self, user, name, epoch, model, tried):
        ticket = ticket_for(record(name, epoch=epoch, model=model))
        placement = self.core.route_rank(subject(user), ticket, sorted(tried), self.now_ns)
        able = [m for m in self.core.candidates(None, tried) if m.record.model == model]
        if placement is None:
            assert not [m for m in self.core.members if m.record.model == model and m.record.instance_id not in tried]
            return
        assert placement.record.model == model
        assert placement.record.instance_id not in tried
        self.check_choice(placement, able)
        named = self.core.members.get(name)
        is_there = named is not None and (named.record.epoch, named.record.model) == (epoch, model) and named.is_usable
        assert (placement.branch is Branch.TICKET) == (is_there and name not in tried)

    def check_choice(self, placement, able):
        chosen = self.core.members.get(placement.record.instance_id)
        assert chosen.is_usable or not any(member.is_usable for member in able)

    @rule(index=st.integers(0, 100), backlog_ms=st.one_of(st.none(), st.integers(0, 100)))
    def call_ends(self, index, backlog_ms):
        if self.calls:
            numbers = self.calls.pop(index % len(self.calls))
            queues = None if backlog_ms is None else Queues(backlog_ns=backlog_ms * MS)
            for core, number in zip(self.cores, numbers, strict=True):
                core.load.end(number, self.now_ns, queues)

    @invariant()
    def tables_are_capped_and_consistent(self):
        for core in self.cores:
            core.check()
        assert len(self.core.members) <= MEMBERS_MAX
        assert len(self.core.pins) <= PINS_MAX


TestRouters = Routers.TestCase
TestRouters.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 8), st.sampled_from([0.9, 1.1, 1.4]))
def test_load_is_bounded_however_skewed_the_users_are(seed, instances, skew):
    chance = random.Random(seed)
    floor_ns, work_ns = 5 * MS, MS
    core = Binding(spill_floor_ns=floor_ns)
    core.handle(Listed(tuple(record(f"i{index}") for index in range(instances))), 0)
    weights = [1 / (rank + 1) ** skew for rank in range(200)]
    for user in chance.choices(range(200), weights, k=400):
        placement = core.resolve(subject(user), now_ns=0)
        core.load.begin(placement.record.instance_id, work_ns, 0)
        loads = [core.load.load_ns(f"i{index}", 0) for index in range(instances)]
        assert max(loads) <= max(floor_ns, BOUND * sum(loads) / instances) + work_ns


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32))
def test_below_the_floor_every_user_has_one_place(seed):
    chance = random.Random(seed)
    core = Binding(spill_floor_ns=10**12)
    core.handle(Listed(tuple(record(name) for name in NAMES)), 0)
    places: dict[int, set[str]] = {}
    for user in chance.choices(range(50), k=300):
        placement = core.resolve(subject(user), now_ns=0)
        core.load.begin(placement.record.instance_id, MS, 0)
        places.setdefault(user, set()).add(placement.record.instance_id)
    assert all(len(each) == 1 for each in places.values())
    assert len(Counter(name for each in places.values() for name in each)) > 1
