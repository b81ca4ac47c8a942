"""Rules that are about numbers and bounds; sequences of effects are in tests/scenarios/ranker."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.ranker.core import effects as fx
from services.ranker.core import events as ev
from services.ranker.core.residency import Residency
from tests.unit.ranker_core.histories import COST, chain, key, residency, user

MS = 1_000_000


def ask(machine: Residency, ticket_id: str, name: str, tokens: int, *, variant: int = 0, now_ns: int = 0) -> list:
    asked = ev.PreInferAsked(ticket_id, key(name), chain(name, tokens, variant), now_ns + MS, f"trace-{ticket_id}")
    return machine.handle(asked, now_ns)


def produce(machine: Residency, ticket_id: str, name: str, tokens: int) -> None:
    """Psi of a whole history, held by a ticket."""
    started = ask(machine, ticket_id, name, tokens)[1]
    assert isinstance(started, fx.StartCompute)
    machine.handle(ev.ChunkEnded(started.job_id, tokens), 0)


def rank(machine: Residency, rank_id: int, name: str, tokens: int, ticket_id: str | None = None, now_ns: int = 0):
    event = ev.RankAsked(rank_id, key(name), chain(name, tokens), ticket_id, now_ns + MS, 10)
    return machine.handle(event, now_ns)


def test_held_psi_survives_any_pressure():
    machine = residency(pages_total=4, entries_max=16, tickets_max=16)
    produce(machine, "t0", "ann", 300)
    for i in range(8):
        ask(machine, f"p{i}", f"user{i}", 100)
    (answer,) = rank(machine, 1, "ann", 300, "t0")
    assert isinstance(answer, fx.RankOnPsi) and answer.tokens == 300
    machine.check()


def consume(machine: Residency, rank_id: int, ticket_id: str, name: str, tokens: int) -> list:
    rank(machine, rank_id, name, tokens, ticket_id)
    return machine.handle(ev.RankEnded(rank_id), 0)


def test_what_has_grown_by_less_than_a_page_is_not_copied_to_dram_again():
    machine = residency()
    machine.handle(ev.DramAttached(True), 0)
    lookup = ask(machine, "t0", "ann", 300)[1]
    machine.handle(ev.LookupEnded(lookup.job_id, 0, b""), 0)
    machine.handle(ev.ChunkEnded(lookup.job_id, 300), 0)
    (spill,) = consume(machine, 1, "t0", "ann", 300)
    assert isinstance(spill, fx.StartSpill) and spill.tokens == 300
    machine.handle(ev.SpillEnded(spill.entry_id, True), 0)
    produce(machine, "t1", "ann", 300 + 127)
    assert consume(machine, 2, "t1", "ann", 300 + 127) == []
    produce(machine, "t2", "ann", 300 + 128)
    (again,) = consume(machine, 3, "t2", "ann", 300 + 128)
    assert isinstance(again, fx.StartSpill) and again.tokens == 300 + 128
    machine.check()


def test_acceptance_says_where_production_begins():
    machine = residency()
    produce(machine, "t0", "ann", 300)
    assert ask(machine, "t1", "ann", 350)[0] == fx.Accept("t1", fx.Acceptance.STARTED, 300)
    assert ask(machine, "t2", "ann", 360)[0] == fx.Accept("t2", fx.Acceptance.STARTED, 350)
    assert ask(machine, "t3", "ann", 300)[0] == fx.Accept("t3", fx.Acceptance.RESIDENT)
    assert ask(machine, "t4", "bob", 200)[0] == fx.Accept("t4", fx.Acceptance.STARTED)


def test_refused_footprint_evicts_nobody():
    machine = residency(pages_total=4)
    produce(machine, "t0", "ann", 100)
    produce(machine, "t1", "bob", 200)
    machine.handle(ev.TicketReleased("t0"), 0)
    assert ask(machine, "t2", "eve", 300) == [fx.Decline("t2", fx.DeclineReason.FOOTPRINT)]
    assert machine.snapshot().counters["evicted_space"] == 0
    assert isinstance(rank(machine, 1, "ann", 100)[0], fx.RankOnPsi)


def test_reserved_pages_are_those_that_cannot_be_evicted():
    machine = residency(pages_total=8)
    produce(machine, "t0", "ann", 300)
    assert machine.snapshot().reserved_pages == 3
    machine.handle(ev.TicketReleased("t0"), 0)
    assert (machine.snapshot().used_pages, machine.snapshot().reserved_pages) == (3, 0)
    ask(machine, "t1", "bob", 129)
    assert (machine.snapshot().used_pages, machine.snapshot().reserved_pages) == (5, 2)


def test_pages_of_a_cancelled_job_are_not_handed_out_before_its_last_report():
    machine = residency(pages_total=2)
    started = ask(machine, "t0", "ann", 200)[1]
    machine.handle(ev.TicketReleased("t0"), 0)
    assert ask(machine, "t1", "bob", 100) == [fx.Decline("t1", fx.DeclineReason.FOOTPRINT)]
    machine.handle(ev.ProductionFailed(started.job_id, "cancelled"), 0)
    assert isinstance(ask(machine, "t2", "bob", 100)[1], fx.StartCompute)


def test_lease_keeps_pages_after_its_ticket_is_gone():
    machine = residency(pages_total=2)
    produce(machine, "t0", "ann", 200)
    rank(machine, 1, "ann", 200, "t0")
    machine.expire(2 * MS)
    assert ask(machine, "t1", "bob", 100, now_ns=2 * MS) == [fx.Decline("t1", fx.DeclineReason.FOOTPRINT)]
    machine.handle(ev.RankEnded(1), 2 * MS)
    assert isinstance(ask(machine, "t2", "bob", 100, now_ns=2 * MS)[1], fx.StartCompute)


def test_abandoned_rank_ends_its_lease_and_not_its_ticket():
    machine = residency()
    produce(machine, "t0", "ann", 200)
    rank(machine, 1, "ann", 200, "t0")
    machine.handle(ev.RankAbandoned(1), 0)
    assert machine.snapshot().open_tickets == 1
    rank(machine, 2, "ann", 200, "t0")
    machine.handle(ev.RankEnded(2), 0)
    assert (machine.snapshot().open_tickets, machine.snapshot().counters["tickets_consumed"]) == (0, 1)


def test_joiner_that_leaves_takes_its_alarm_with_it():
    machine = residency()
    ask(machine, "t0", "ann", 300)
    rank(machine, 1, "ann", 300, "t0")
    assert machine.deadline_ns() < MS
    machine.handle(ev.RankAbandoned(1), 0)
    assert machine.deadline_ns() == MS
    machine.check()


def test_overtaking_never_comes_before_its_time():
    machine = residency()
    ask(machine, "t0", "ann", 300)
    rank(machine, 1, "ann", 300, "t0")
    due_ns = machine.deadline_ns()
    assert machine.expire(due_ns - 1) == []
    in_full = fx.RankInFull(1, fx.FallbackReason.PRODUCTION_FAILED)
    assert machine.expire(due_ns) == [in_full, fx.DemoteProduction(1)]


def test_uncertain_cost_model_overtakes_earlier():
    def due_ns(relative_error: float) -> int:
        machine = residency(cost=replace(COST, relative_error=relative_error))
        ask(machine, "t0", "ann", 300)
        rank(machine, 1, "ann", 300, "t0")
        due = machine.deadline_ns()
        assert due is not None
        return due

    assert due_ns(0.0) == MS - 32_000
    assert due_ns(0.5) == MS - 48_000


def test_every_wait_is_bounded_by_the_rank_s_deadline():
    machine = residency()
    ask(machine, "t0", "ann", 300)
    for budget_ns in (1, 3_000, 30_000, 50_000, 500_000):
        event = ev.RankAsked(budget_ns, key("ann"), chain("ann", 300), "t0", budget_ns, 10)
        if not [each for each in machine.handle(event, 0) if isinstance(each, fx.RankInFull)]:
            assert machine.deadline_ns() < budget_ns
            machine.handle(ev.RankAbandoned(budget_ns), 0)


def test_survival_counts_tickets_once_also_declined_ones():
    machine = residency(pages_total=3)
    produce(machine, "t0", "ann", 300)
    ask(machine, "t1", "bob", 100)
    for rank_id, name, ticket_id in ((1, "ann", "t0"), (2, "ann", "t0"), (3, "bob", "t1"), (4, "bob", "t1")):
        rank(machine, rank_id, name, 300 if name == "ann" else 100, ticket_id)
        machine.handle(ev.RankEnded(rank_id), 0)
    counters = machine.snapshot().counters
    assert (counters["rank_with_ticket"], counters["rank_with_ticket_hit"]) == (2, 1)


def test_tombstones_are_bounded():
    machine = residency(entries_max=2)
    for i in range(40):
        assert machine.handle(ev.UserForgotten(user(f"user{i}")), i) == [fx.ForgetDram(user(f"user{i}"))]
    machine.check()
    assert machine.snapshot().counters["tombstones_dropped"] == 32
    assert ask(machine, "t0", "user39", 10, now_ns=50) == [fx.Decline("t0", fx.DeclineReason.FORGOTTEN)]


def test_forgotten_user_is_refused_until_the_last_reader_ended_even_after_the_tombstone_fell():
    machine = residency(tombstone_ns=1_000)
    produce(machine, "t0", "ann", 100)
    rank(machine, 1, "ann", 100, "t0")
    machine.handle(ev.UserForgotten(user("ann")), 0)
    machine.expire(1_000)
    assert ask(machine, "t1", "ann", 100, now_ns=1_000) == [fx.Decline("t1", fx.DeclineReason.FORGOTTEN)]
    machine.handle(ev.RankEnded(1), 1_000)
    assert isinstance(ask(machine, "t2", "ann", 100, now_ns=1_000)[0], fx.Accept)


def test_another_anchor_is_another_psi():
    machine = residency()
    produce(machine, "t0", "ann", 100)
    event = ev.RankAsked(1, key("ann", anchor=128), chain("ann", 100), None, MS, 10)
    assert machine.handle(event, 0) == [fx.RankInFull(1, fx.FallbackReason.NO_TICKET)]


@pytest.mark.parametrize(
    "event",
    [
        ev.LookupEnded(99, 0, b""),
        ev.ReloadEnded(99, True),
        ev.ChunkEnded(99, 128),
        ev.ProductionFailed(99, "?"),
        ev.RankEnded(99),
        ev.RankAbandoned(99),
        ev.SpillEnded(99, True),
    ],
)
def test_reports_of_unknown_work_change_nothing_and_are_noticed(event):
    machine = residency()
    produce(machine, "t0", "ann", 100)
    assert machine.handle(event, 0) == []
    races = {name: count for name, count in machine.snapshot().counters.items() if name.startswith("race_")}
    assert sum(races.values()) == 1
    with pytest.raises(AssertionError, match="race_"):
        machine.check()


@pytest.mark.parametrize("tokens", [0, 128, 301])
def test_chunk_that_goes_back_or_too_far_is_not_believed(tokens):
    machine = residency()
    started = ask(machine, "t0", "ann", 300)[1]
    machine.handle(ev.ChunkEnded(started.job_id, 128), 0)
    machine.handle(ev.ChunkEnded(started.job_id, tokens), 0)
    assert machine.snapshot().counters["race_report_unexpected"] == 1


def test_reload_report_while_computing_is_not_believed():
    machine = residency()
    started = ask(machine, "t0", "ann", 300)[1]
    machine.handle(ev.ReloadEnded(started.job_id, True), 0)
    assert machine.snapshot().counters["race_report_unexpected"] == 1
    assert machine.snapshot().resident_entries == 0


def test_check_notices_a_lost_page_and_a_lost_ticket():
    machine = residency()
    produce(machine, "t0", "ann", 300)
    machine.check()
    (entry,) = machine._books.entries.by_id.values()
    page = entry.page_ids.pop()
    with pytest.raises(AssertionError):
        machine.check()
    entry.page_ids.append(page)
    machine.check()
    del entry.tickets["t0"]
    with pytest.raises(AssertionError):
        machine.check()
