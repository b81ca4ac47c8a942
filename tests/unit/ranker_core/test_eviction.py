"""Who goes first: by recency, or by what a page saves, with worth that is not used fading."""

import random

import pytest

from services.ranker.core.eviction import POLICIES, Idle, LeastRecentlyHeld, LeastWorth


def idle(pages: int = 1, rebuild_ns: int = 1000, uses: int = 1) -> Idle:
    return Idle(pages, rebuild_ns, uses)


def evict(policy) -> int:
    victim = next(policy.victims())
    policy.evicted(victim)
    policy.remove(victim)
    return victim


def test_by_recency_what_was_let_go_longest_ago_goes_first():
    policy = LeastRecentlyHeld()
    for entry_id in (3, 1, 2):
        policy.add(entry_id, idle())
    policy.remove(1)
    assert list(policy.victims()) == [3, 2]


def test_by_worth_what_saves_least_per_page_goes_first():
    policy = LeastWorth()
    policy.add(1, idle(pages=10, rebuild_ns=10_000))
    policy.add(2, idle(pages=1, rebuild_ns=500))
    policy.add(3, idle(pages=2, rebuild_ns=8_000))
    assert list(policy.victims()) == [2, 1, 3]


def test_what_dram_can_bring_back_goes_before_what_must_be_computed():
    policy = LeastWorth()
    policy.add(1, idle(rebuild_ns=20_000_000))
    policy.add(2, idle(rebuild_ns=300_000))
    assert evict(policy) == 2


def test_what_is_used_more_often_stays_longer():
    policy = LeastWorth()
    policy.add(1, idle(uses=5))
    policy.add(2, idle(uses=1))
    assert list(policy.victims()) == [2, 1]


def test_among_equals_the_one_let_go_first_goes_first():
    policy = LeastWorth()
    for entry_id in (7, 5, 6):
        policy.add(entry_id, idle())
    assert list(policy.victims()) == [7, 5, 6]


def test_worth_that_is_not_used_fades():
    policy = LeastWorth()
    policy.add(0, idle(rebuild_ns=10_000))
    gone = []
    for entry_id in range(1, 30):
        policy.add(entry_id, idle(rebuild_ns=1_000))
        gone.append(evict(policy))
    assert 0 in gone


@pytest.mark.parametrize("name", POLICIES)
def test_whatever_is_added_and_removed_victims_are_who_is_there(name):
    policy, chance, there = POLICIES[name](), random.Random(name), set()
    for entry_id in range(3000):
        policy.add(entry_id, idle(chance.randint(1, 9), chance.randint(1, 10**6), chance.randint(1, 4)))
        there.add(entry_id)
        while len(there) > 40:
            victim = evict(policy) if chance.random() < 0.5 else chance.choice(sorted(there))
            if victim in there:
                there.discard(victim)
                if victim in set(policy.victims()):
                    policy.remove(victim)
        assert set(policy.victims()) == there
