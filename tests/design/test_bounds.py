"""Design, section 5, I3: a hundred thousand users pass through, and no table outgrows its maximum.

Half as many at the expander, whose every step is several calls.

The maxima are small, and the measure looks into every container that a core reaches, so a
table that nobody thought of bounding is found too.
"""

from __future__ import annotations

import pytest

from relaygr.domain.ended import EndedTickets
from relaygr.domain.identity import PsiKey, UserKey
from services.expander.core.effects import StoreGrant
from services.expander.core.entries import Content
from services.expander.core.events import LockProbed
from services.ranker.core import effects as fx
from services.ranker.core import events as ev
from services.router.core.binding import Binding
from services.router.core.events import PinRead, Registered
from services.router.core.orders import KEPT
from services.trigger.core.admission import Admission
from services.trigger.core.effects import Admit
from services.trigger.core.events import Arrived, Outcome, PreInferAnswered
from tests.design.tables import largest_table
from tests.unit.expander.test_tiering import Host, key_of
from tests.unit.ranker_core.histories import chain, residency
from tests.unit.router.fleet import record, subject
from tests.unit.trigger.conftest import Values

USERS = 100_000
MS = 1_000_000


def test_the_measure_finds_a_table_inside_a_core() -> None:
    core = Binding(pins_max=50)
    before = largest_table(core)
    for user in range(2_000):
        core.pins._pins[str(user)] = None  # type: ignore[assignment]
    assert before < 50 and largest_table(core) == 2_000


def test_what_a_router_has_to_tell_triggers_stays_within_its_maxima() -> None:
    core, largest = EndedTickets(triggers_max=8, tickets_max=16), 0
    for number in range(USERS):
        core.put(f"trigger-{number % 100}", f"t{number}")
        largest = max(largest, largest_table(core)) if not number % 1_000 else largest
    assert 0 < largest <= 16


def test_the_rankers_tables_stay_within_their_maxima() -> None:
    core = residency(pages_total=32, tickets_max=16, entries_max=24, ranks_max=8, spills_max=2, tombstone_ns=1_000)
    core.handle(ev.DramAttached(True), 0)
    asked, largest = chain("u", 60), 0
    for number in range(USERS):
        now_ns = 1_000 * number
        owner = UserKey("t", str(number))
        key, ticket_id = PsiKey(owner, "m", 0), f"t{number}"
        effects = core.handle(ev.PreInferAsked(ticket_id, key, asked, now_ns + 5_000, ""), now_ns)
        for effect in effects:
            if isinstance(effect, fx.StartLookup) and number % 3:
                effects += core.handle(ev.LookupEnded(effect.job_id, 0, b""), now_ns)
            elif isinstance(effect, fx.StartCompute):
                core.handle(ev.ChunkEnded(effect.job_id, effect.to_tokens), now_ns)
        core.handle(ev.RankAsked(number, key, asked, ticket_id, now_ns + 2_000, 10), now_ns)
        if number % 2:
            core.handle(ev.RankEnded(number), now_ns)
        if not number % 5:
            core.handle(ev.UserForgotten(owner), now_ns)
        core.expire(now_ns)
        if not number % 997:
            core.check()
            largest = max(largest, largest_table(core))
    counters = core.snapshot().counters
    assert counters["declined_footprint"] + counters["declined_overloaded"] > 0 and counters["evicted_space"] > 0
    # The tickets' memory of how closed ones ended and the tombstones are four times the open ones; counters are names.
    assert largest <= max(4 * 24, 4 * 16, 32, len(counters))


def test_the_expanders_tables_stay_within_their_maxima() -> None:
    host = Host(block_count=40, entries_max=16, pins_max=8, tombstones_max=20, staging_blocks_max=20, owners_max=4)
    core, largest = host.core, 0
    for number in range(USERS // 2):
        host.now = 2 * number
        for effect in core.expire(host.now):
            core.handle(LockProbed(effect.owner_index, is_held=False), host.now)
        host.a = host.attach("a")  # An owner that left a store unfinished gets another index.
        grant = host.prepare(str(number), blocks=1)
        if isinstance(grant, StoreGrant) and number % 40:
            content = Content(5, b"c", 10, b"d", "")
            core.complete_store(host.a, grant.store_id, True, content, host.now)
            core.lookup(host.a, key_of(str(number)), host.now)
        if not number % 30:
            core.evict(UserKey("t", str(number)), host.now)
        if not number % 997:
            core.check()
            largest = max(largest, largest_table(core))
    assert core.counters["evicted"] > 1_000 and core.counters["store_overdue"] > 100
    # Blocks are the largest table: one number each; counters are names.
    assert largest <= max(40, len(core.counters))


def test_the_triggers_tables_stay_within_their_maxima() -> None:
    values = Values()
    core = Admission(values.with_rules(tickets_max=40, unanswered_max=30, accounts_max=20))
    largest = admitted = 0
    for number in range(USERS):
        instance = values.with_instance(instance_id=f"r{number}", device_budget_bytes=1 << 40)
        effect = core.handle(Arrived(f"t{number}", values.demand, instance), number * 10 * MS)[-1]
        admitted += isinstance(effect, Admit)
        if isinstance(effect, Admit) and number % 10:
            core.handle(PreInferAnswered(f"t{number}", Outcome.STARTED), number * 10 * MS)
        if not number % 997:
            core.check()
            largest = max(largest, largest_table(core))
    assert admitted and largest <= 40


def test_the_routers_tables_stay_within_their_maxima() -> None:
    core = Binding(pins_max=50, members_max=40, calls_max=30)
    largest = 0
    for number in range(USERS):
        if not number % 500:
            core.handle(Registered(record(f"r{number}")), number)
        core.handle(PinRead(subject(number).user_hash, "r0", 1, number + 1_000_000), number)
        core.load.begin(f"r{number}", MS, number)
        if not number % 997:
            core.check()
            largest = max(largest, largest_table((core.members, core.load, core.pins)))
    assert len(core.members) == 40
    # The pins' heap of ends may hold as many stale ones as there are pins.
    assert largest <= 2 * 50 + 1


@pytest.mark.parametrize("kind", ["orders", "tables"])
def test_what_the_router_keeps_per_slot_is_as_large_as_the_slots(kind: str) -> None:
    """Of a slot's order the first few are kept, once per model and slot; of tables one a model that is served."""
    core = Binding()
    for name in "abc":
        core.handle(Registered(record(name)), 0)
    for user in range(5_000):
        core.resolve(subject(user), now_ns=1)
    kept = {"orders": sum(map(len, core._orders.values())), "tables": len(core._default_tables)}[kind]
    assert kept <= {"orders": 1024 * KEPT, "tables": 1}[kind]
