"""Where a request goes."""

import pytest

from relaygr.domain.instance import InstanceState
from relaygr.domain.slots import SLOTS, slot_of
from services.router.core.binding import Binding, Branch, Placement, Refusal
from services.router.core.effects import ChangeMembers, ForgetPeer, PinUser
from services.router.core.events import (
    CallFailed,
    Departed,
    FenceReason,
    Listed,
    PinDropped,
    PinRead,
    Registered,
    TableRead,
    UserPlaced,
)
from services.router.core.load import PROMISE_NS, Queues
from services.router.core.recent import RECENT_NS, Place, Recent
from services.router.core.slots import SlotTable
from tests.unit.router.fleet import OTHER_MODEL, record, subject, ticket_for

MS = 1_000_000
WINDOW_NS = 2_000 * MS
USER = subject("u")


def core(*records, **options):
    binding = Binding(**options)
    binding.handle(Listed(records), 0)
    return binding


def trio(**options):
    """Three instances and a table that gives every slot to "a"."""
    binding = core(record("a"), record("b"), record("c"), **options)
    own(binding, "a")
    return binding


def own(binding, name, model=None):
    model_key = (model or record("a").model).key
    binding.handle(TableRead(model_key, SlotTable(1, (name,) * SLOTS)), 0)


def fence(binding, name, epoch=1):
    binding.handle(CallFailed(name, epoch, FenceReason.UNREACHABLE), 1)


def resolve(binding, who=USER, now_ns=2, **options):
    return binding.resolve(who, now_ns=now_ns, **options)


def placed(placement):
    return placement.record.instance_id, placement.branch


def test_without_instances_nobody_is_placed():
    assert resolve(Binding()) is None
    assert Binding().route_rank(USER, None, (), 0) is None


def test_the_slot_table_places_a_user():
    binding = trio()
    assert placed(resolve(binding)) == ("a", Branch.SLOT)
    own(binding, "b")
    assert placed(resolve(binding)) == ("b", Branch.SLOT)


def place(binding, who, name, now_ns=2, **work):
    brings = {"production_ns": 0, "rank_ns": 0, "window_ns": WINDOW_NS, **work}
    binding.handle(UserPlaced(who.user_hash, name, 1, **brings), now_ns)
    binding.check()


def test_a_newcomer_goes_to_the_less_busy_of_its_slots_first_two():
    binding = trio()
    binding.load.report("a", Queues(backlog_ns=20 * MS), 2)
    placement = resolve(binding, will_admit=True, window_ns=WINDOW_NS)
    assert placement.branch is Branch.LIGHTER and placement.record.instance_id != "a"
    assert placement.pin is None, "its ticket says where it is; nobody else needs to know"
    assert placed(resolve(binding)) == ("a", Branch.SLOT), "without a ticket there is nothing to place"


def test_a_rank_that_nothing_binds_goes_to_the_less_busy_of_its_slots_first_two():
    binding = trio()
    assert placed(binding.route_rank(USER, None, (), 2)) == ("a", Branch.SLOT)
    binding.load.report("a", Queues(backlog_ns=20 * MS), 2)
    assert binding.route_rank(USER, None, (), 2).branch is Branch.LIGHTER
    place(binding, USER, "a")
    assert placed(binding.route_rank(USER, None, (), 2)) == ("a", Branch.RECENT)


def test_a_newcomer_stays_where_the_difference_is_noise():
    binding = trio()
    binding.load.report("a", Queues(backlog_ns=MS // 2), 2)
    assert placed(resolve(binding, will_admit=True)) == ("a", Branch.SLOT)


def test_productions_and_ranks_on_their_way_count_for_the_next_newcomer():
    for work in ({"production_ns": 20 * MS}, {"rank_ns": 20 * MS}):
        binding = trio()
        place(binding, subject("first"), "a", **work)
        assert resolve(binding, will_admit=True).branch is Branch.LIGHTER
    binding.load.rank_came(subject("first").user_hash)
    assert placed(resolve(binding, will_admit=True)) == ("a", Branch.SLOT)


def test_an_instance_that_looked_busy_by_promises_alone_is_chosen_again():
    binding = trio()
    for number in range(2):
        place(binding, subject(f"declined-{number}"), "a", production_ns=20 * MS)
    assert resolve(binding, will_admit=True, now_ns=1 + PROMISE_NS).branch is Branch.LIGHTER
    assert placed(resolve(binding, will_admit=True, now_ns=2 + PROMISE_NS)) == ("a", Branch.SLOT)


def test_ranks_that_never_came_are_forgotten_after_their_window():
    binding = trio()
    place(binding, subject("first"), "a", rank_ns=20 * MS)
    place(binding, subject("second"), "b", now_ns=2 + WINDOW_NS)
    assert binding.load.pressure_ns("a", 2 + WINDOW_NS) == 0


def test_a_user_returns_to_where_it_was_lately():
    binding = trio()
    place(binding, USER, "b")
    assert placed(resolve(binding, will_admit=True)) == ("b", Branch.RECENT)
    assert placed(binding.route_rank(USER, None, (), 3)) == ("b", Branch.RECENT)
    assert placed(resolve(binding, now_ns=2 + RECENT_NS)) == ("a", Branch.SLOT)


def test_a_place_is_forgotten_with_its_boot_its_user_or_its_instance():
    binding = trio()
    place(binding, USER, "b")
    binding.handle(PinDropped(USER.user_hash), 3)
    assert placed(resolve(binding)) == ("a", Branch.SLOT)
    place(binding, USER, "b")
    binding.handle(Registered(record("b", epoch=2)), 3)
    assert placed(resolve(binding)) == ("a", Branch.SLOT)
    place(binding, USER, "c")
    fence(binding, "c")
    assert placed(resolve(binding)) == ("a", Branch.SLOT)


def test_places_are_capped_and_the_longest_unseen_goes():
    recent = Recent(users_max=2)
    for number in range(3):
        recent.put(f"u{number}", Place("a", 1, number))
        recent.check()
    assert recent.get("u0", 3) is None and recent.get("u2", 3) is not None


def test_without_a_table_every_router_places_alike():
    one = core(record("a"), record("b"), record("c"))
    two = core(record("c"), record("a"), record("b"))
    users = [subject(user) for user in range(100)]
    places = [placed(resolve(one, user)) for user in users]
    assert places == [placed(resolve(two, user)) for user in users]
    assert {name for name, _ in places} == {"a", "b", "c"}


def test_both_halves_of_a_relay_meet():
    binding = core(*(record(name) for name in "abcde"))
    for user in range(200):
        who = subject(user)
        there = resolve(binding, who, will_admit=True, window_ns=WINDOW_NS).record
        ticket = ticket_for(there)
        assert binding.route_pre_infer(ticket) == there
        assert binding.route_rank(who, ticket, (), 3) == Placement(there, Branch.TICKET)


def test_a_ticket_wins_over_pin_and_slot():
    binding = trio()
    binding.handle(PinRead(USER.user_hash, "b", 1, WINDOW_NS), 0)
    assert placed(binding.route_rank(USER, ticket_for(record("c")), (), 1)) == ("c", Branch.TICKET)


def test_a_pin_wins_over_the_slot_until_it_ends():
    binding = trio()
    binding.handle(PinRead(USER.user_hash, "b", 1, WINDOW_NS), 0)
    assert placed(resolve(binding)) == ("b", Branch.PIN)
    assert placed(binding.route_rank(USER, None, (), 1)) == ("b", Branch.PIN)
    assert placed(resolve(binding, subject("another"))) == ("a", Branch.SLOT)
    assert placed(resolve(binding, now_ns=WINDOW_NS)) == ("a", Branch.SLOT)
    binding.handle(PinDropped(USER.user_hash), 3)
    assert placed(resolve(binding)) == ("a", Branch.SLOT)


@pytest.mark.parametrize("epoch", [2, 99])
def test_a_pin_to_another_boot_is_ignored(epoch):
    binding = trio()
    binding.handle(PinRead(USER.user_hash, "b", epoch, WINDOW_NS), 0)
    assert placed(resolve(binding)) == ("a", Branch.SLOT)


def test_a_fenced_owner_makes_way_for_the_next_in_the_slots_order():
    binding = trio()
    fence(binding, "a")
    names = {placed(resolve(binding, subject(user)))[0] for user in range(50)}
    assert names == {"b", "c"}
    assert resolve(binding).branch is Branch.REROUTED
    assert placed(resolve(binding)) == placed(resolve(binding))


def test_fenced_instances_are_tried_when_nobody_else_is_there():
    binding = core(record("a"))
    fence(binding, "a")
    assert resolve(binding).record.instance_id == "a"
    assert binding.route_rank(USER, None, ("a",), 1) is None


def test_an_owner_above_the_bound_spills_and_the_user_is_pinned_for_its_window():
    binding = trio(spill_floor_ns=10 * MS)
    binding.load.begin("a", 100 * MS, 0)
    placement = resolve(binding, will_admit=True, window_ns=WINDOW_NS)
    name, branch = placed(placement)
    assert branch is Branch.SPILL
    assert name in ("b", "c")
    assert placement.pin == PinUser(USER.user_hash, name, 1, WINDOW_NS)
    assert placed(resolve(binding)) == (name, Branch.SPILL)


def test_a_spill_without_a_ticket_pins_nobody():
    binding = trio(spill_floor_ns=10 * MS)
    binding.load.begin("a", 100 * MS, 0)
    assert resolve(binding, will_admit=False, window_ns=WINDOW_NS).pin is None
    assert resolve(binding, will_admit=True, window_ns=0).pin is None


def test_small_loads_never_spill():
    binding = trio(spill_floor_ns=100 * MS)
    binding.load.begin("a", 100 * MS, 0)
    assert resolve(binding).branch is Branch.SLOT


def test_equal_loads_never_spill_however_large():
    binding = trio(spill_floor_ns=MS)
    for name in "abc":
        binding.load.report(name, Queues(backlog_ns=10_000 * MS), 0)
    assert resolve(binding).branch is Branch.SLOT


def test_a_rank_with_a_ticket_never_spills_and_one_without_does():
    binding = trio(spill_floor_ns=MS)
    binding.load.begin("a", 100 * MS, 0)
    assert placed(binding.route_rank(USER, ticket_for(record("a")), (), 1)) == ("a", Branch.TICKET)
    placement = binding.route_rank(USER, None, (), 1)
    assert placement.branch is Branch.SPILL
    assert placement.pin is None


def test_a_user_off_its_slot_because_of_a_fence_is_pinned_too():
    binding = trio()
    fence(binding, "a")
    placement = resolve(binding, will_admit=True, window_ns=WINDOW_NS)
    assert placement.pin == PinUser(USER.user_hash, placement.record.instance_id, 1, WINDOW_NS)


def test_a_rank_whose_instance_is_gone_goes_to_another_of_the_same_model():
    binding = trio()
    binding.handle(Departed("b"), 1)
    assert placed(binding.route_rank(USER, ticket_for(record("b")), (), 2)) == ("a", Branch.REROUTED)


@pytest.mark.parametrize("tried", [("b",), ("b", "a")])
def test_a_failed_rank_is_not_sent_to_the_same_instance_again(tried):
    binding = trio()
    placement = binding.route_rank(USER, ticket_for(record("b")), tried, 2)
    assert placement.record.instance_id not in tried
    assert placement.branch is Branch.REROUTED


def test_a_rank_whose_instance_restarted_is_resolved_once_more():
    binding = trio()
    ticket = ticket_for(record("a"))
    binding.handle(Registered(record("a", epoch=2)), 1)
    assert placed(binding.route_rank(USER, ticket, (), 2)) == ("a", Branch.REROUTED)


def test_a_rank_is_never_scored_by_another_model():
    binding = core(record("a"), record("new", model=OTHER_MODEL, budget=100 << 30))
    ticket = ticket_for(record("a"))
    fence(binding, "a")
    assert binding.route_rank(USER, ticket, ("a",), 1) is None
    binding.handle(Registered(record("a", epoch=2, model=OTHER_MODEL)), 2)
    assert binding.route_rank(USER, ticket, (), 3) is None


def test_requests_that_name_no_model_take_the_one_with_the_larger_budget():
    binding = core(record("a"), record("b"), record("new", model=OTHER_MODEL))
    assert binding.default_model() == record("a").model.key
    binding.handle(Registered(record("b", epoch=2, model=OTHER_MODEL)), 1)
    assert binding.default_model() == OTHER_MODEL.key
    assert resolve(binding).record.model == OTHER_MODEL


def test_a_pre_infer_obeys_its_ticket_or_is_refused():
    binding = trio()
    assert binding.route_pre_infer(ticket_for(record("c"))) == record("c")
    assert binding.route_pre_infer(ticket_for(record("z"))) is Refusal.FOREIGN_TICKET
    assert binding.route_pre_infer(ticket_for(record("c", epoch=2))) is Refusal.FOREIGN_TICKET
    assert binding.route_pre_infer(ticket_for(record("c", model=OTHER_MODEL))) is Refusal.FOREIGN_TICKET
    fence(binding, "c")
    assert binding.route_pre_infer(ticket_for(record("c"))) is Refusal.UNREACHABLE


def test_a_draining_instance_takes_no_new_users_but_keeps_its_tickets():
    binding = trio()
    binding.handle(Registered(record("a", state=InstanceState.DRAINING)), 1)
    assert resolve(binding).record.instance_id in ("b", "c")
    assert placed(binding.route_rank(USER, ticket_for(record("a")), (), 2)) == ("a", Branch.TICKET)
    assert "a" not in binding.weights(record("a").model.key)


def test_a_restart_forgets_the_load_of_the_boot_before():
    binding = trio()
    binding.load.begin("a", 100 * MS, 0)
    effects = binding.handle(Registered(record("a", epoch=2)), 1)
    assert effects == [ForgetPeer("a", 1, "a:1"), ChangeMembers()]
    assert binding.load.load_ns("a", 1) == 0


def test_members_changing_together_are_told_once():
    binding = Binding()
    assert binding.handle(Listed((record("a"), record("b"))), 0) == [ChangeMembers()]


def test_tables_beyond_the_maximum_make_room_for_those_served():
    binding = core(record("a"), tables_max=2)
    own(binding, "a")
    for index in range(5):
        binding.handle(TableRead(f"old-{index}", SlotTable(1, ("x",) * SLOTS)), 1)
        binding.check()
    assert binding.table(record("a").model.key) is not None
    binding.handle(TableRead(record("a").model.key, None), 2)
    assert binding.table(record("a").model.key) is None


def test_a_table_that_names_nobody_we_know_still_places_everybody():
    binding = core(record("a"), record("b"))
    own(binding, "long-gone")
    assert {placed(resolve(binding, subject(user))) for user in range(50)} == {
        ("a", Branch.REROUTED),
        ("b", Branch.REROUTED),
    }


def test_users_of_two_tenants_are_different_users():
    slots = {slot_of(subject("u", tenant=tenant).user) for tenant in ("a", "b", "c", "d")}
    assert len(slots) > 1


def test_expired_pins_are_dropped_when_due():
    binding = trio()
    binding.handle(PinRead(USER.user_hash, "b", 1, 100), 0)
    assert binding.deadline_ns() == 100
    assert binding.expire(100) == []
    assert len(binding.pins) == 0
    assert binding.deadline_ns() is None
    binding.check()
