"""Placements that take affinity's place under load."""

from collections import Counter

import pytest

from bench.load.ablations.placement import LeastLoaded, UniformlyRandom
from services.router.core.binding import Branch
from services.router.core.events import Listed
from services.router.core.load import Queues
from tests.unit.router.fleet import OTHER_MODEL, record, subject, ticket_for

MS = 1_000_000
USER = subject("u")


def listed(binding, *records):
    binding.handle(Listed(records), 0)
    return binding


def chosen(binding, ticket=None, tried=(), now_ns=1):
    return binding.route_rank(USER, ticket, tried, now_ns).record.instance_id


def test_the_least_loaded_instance_is_chosen_by_what_is_queued_there():
    binding = listed(LeastLoaded(), record("a"), record("b"), record("c"))
    long = binding.load.begin("a", 50 * MS, 0, is_rank=True)
    binding.load.begin("b", 20 * MS, 0, is_rank=True)
    binding.load.begin("c", 30 * MS, 0, is_rank=True)
    assert [chosen(binding) for _ in range(3)] == ["b", "b", "b"]
    binding.load.end(long, 1, Queues(backlog_ns=0))
    assert chosen(binding) == "a"


def test_a_reported_backlog_counts_as_load_and_drains():
    binding = listed(LeastLoaded(), record("a"), record("b"))
    binding.load.report("a", Queues(backlog_ns=30 * MS), 0)
    binding.load.begin("b", 20 * MS, 0, is_rank=True)
    assert chosen(binding, now_ns=1) == "b"
    assert chosen(binding, now_ns=20 * MS) == "a"


def test_equals_take_turns_also_when_it_is_asked_whether_there_is_another():
    binding = listed(LeastLoaded(), record("a"), record("b"))
    found = []
    for _ in range(6):
        found.append(chosen(binding))
        chosen(binding, tried=found[-1:])
    assert found == ["a", "b", "a", "b", "a", "b"]


def test_instances_that_failed_the_request_are_not_chosen_again():
    binding = listed(LeastLoaded(), record("a"), record("b"))
    assert chosen(binding, tried=["a"]) == "b"
    assert binding.route_rank(USER, None, ["a", "b"], 1) is None


@pytest.mark.parametrize("is_pooled", [False, True])
def test_a_rank_away_from_its_ticket_counts_as_full_unless_psi_can_be_had_everywhere(is_pooled):
    binding = listed(LeastLoaded(tickets_anywhere=is_pooled), record("a"), record("b"))
    binding.load.begin("a", 50 * MS, 0, is_rank=True)
    placement = binding.route_rank(USER, ticket_for(record("a")), (), 1)
    assert placement.record.instance_id == "b"
    assert placement.branch is (Branch.TICKET if is_pooled else Branch.REROUTED)


def test_a_ticket_still_decides_the_model():
    binding = listed(LeastLoaded(), record("a"), record("b", model=OTHER_MODEL))
    assert {chosen(binding, ticket_for(record("b", model=OTHER_MODEL))) for _ in range(4)} == {"b"}


def test_random_placement_is_uniform_and_repeats_with_its_seed():
    def draws(seed):
        binding = listed(UniformlyRandom(seed=seed), record("a"), record("b"), record("c"))
        return [chosen(binding, ticket_for(record("a"))) for _ in range(3000)]

    counts = Counter(draws(7))
    assert set(counts) == {"a", "b", "c"} and min(counts.values()) > 900
    assert draws(7) == draws(7) != draws(8)
