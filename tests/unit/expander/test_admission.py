"""Users who come once do not flush those who come back; where there is room for all, nothing changes."""

from __future__ import annotations

import pytest

from services.expander.core.admission import ENTRIES_LEAST, NOTES_PER_ENTRY, AdmissionPolicy
from services.expander.core.effects import StoreGrant, StoreRefusal
from services.expander.core.returns import GAPS_LEAST, GAPS_MAX, ReturnGaps, _bucket_of, _end_of
from services.expander.core.sketch import _HALVED, ESTIMATE_MAX, FrequencySketch, key_hash
from tests.unit.expander.test_tiering import Host, key_of

GAP_NS = 40
KEY_HASH = 5357263613876846862


class Visited(Host):
    """A host that has learned that users come back after `GAP_NS`."""

    def __init__(self, **changes):
        super().__init__(pinned_blocks_max=10, **changes)
        for _ in range(GAPS_LEAST + 1):
            self.beat(self.now + GAP_NS)
            self.visit("teacher")
        self.teacher = self.core._admission._gaps.usual_ns

    def visit(self, user: str, blocks: int = 2) -> bool:
        """Look up, store when nothing was found; whether the user's psi is there now."""
        found = self.lookup(user)
        if found is not None:
            return self.end(found)
        grant = self.prepare(user, blocks)
        return isinstance(grant, StoreGrant) and self.complete(grant)


@pytest.fixture
def visited() -> Visited:
    return Visited()


def test_what_fits_is_admitted_whoever_asks(visited):
    assert all(visited.visit(user) for user in "abcd")
    assert visited.core.counters["evicted"] == 0


def test_who_comes_once_does_not_push_out_who_was_here_lately(visited):
    for user in "abcd":
        visited.visit(user)
    assert visited.prepare("once") is StoreRefusal.NOT_YET
    assert visited.core.counters["store_not_yet"] == 1 and visited.core.counters["evicted"] == 0
    assert all(visited.lookup(user) for user in "abcd")


def test_who_comes_again_pushes_out_who_came_once(visited):
    visited.beat(visited.now + 2 * visited.teacher)  # the teacher may go
    for user in "abcde":
        assert visited.visit(user)
    assert not visited.visit("again")
    assert visited.visit("again"), "the second ask is one more than the victim's"
    assert visited.lookup("a") is None and visited.lookup("b") is not None


def test_who_was_here_longer_ago_than_users_take_to_return_gives_way_to_anybody(visited):
    for user in "abcd":
        visited.visit(user)
        visited.visit(user)
    visited.beat(visited.now + 2 * visited.teacher)
    assert visited.visit("once")


def test_a_psi_that_grew_may_replace_its_own_former(visited):
    for user in "abcd":
        visited.visit(user)
    assert visited.lookup("teacher") is not None  # pinned, so that a's own entry is the one to go
    assert isinstance(visited.prepare("a", blocks=2, tokens=9), StoreGrant)


def test_a_share_is_kept_under_the_same_rule():
    visited = Visited(owner_blocks_max=6)
    visited.visit("a"), visited.visit("b")
    assert visited.prepare("once") is StoreRefusal.NOT_YET


def test_entries_beyond_their_maximum_are_kept_under_the_same_rule():
    visited = Visited(entries_max=2)
    visited.visit("a")
    assert visited.prepare("once") is StoreRefusal.NOT_YET


def test_before_anybody_came_back_everything_is_admitted():
    host = Host(pinned_blocks_max=10)
    for user in "abcdefgh":
        host.store(user)
    assert host.core.counters["store_not_yet"] == 0


def test_without_the_filter_everything_is_admitted():
    visited = Visited.__new__(Visited)
    Host.__init__(visited, admission=AdmissionPolicy.ALL)
    for _ in range(2 * GAPS_LEAST):
        for user in "abcdefgh":
            assert visited.visit(user)


def test_counts_fade_with_the_keys_noted(visited):
    before = visited.core._admission._sketch.estimate(key_hash(key_of("teacher")))
    for number in range(NOTES_PER_ENTRY * ENTRIES_LEAST):
        visited.core._admission.note(key_of(str(number)), visited.now, 1, is_return=False)
    assert visited.core._admission._sketch.estimate(key_hash(key_of("teacher"))) <= before // 2 + 1


def test_an_estimate_is_never_less_than_what_was_noted_and_seldom_more():
    sketch = FrequencySketch(256)
    times = {key_hash(key_of(str(number))): number % 5 for number in range(256)}
    for hashed, count in times.items():
        for _ in range(count):
            sketch.note(hashed)
    over = [sketch.estimate(hashed) - count for hashed, count in times.items()]
    assert min(over) >= 0 and sum(one > 0 for one in over) < len(over) / 4


def test_estimates_are_bounded_halve_and_take_no_more_memory():
    sketch, hashed = FrequencySketch(16), key_hash(key_of())
    size_bytes = sketch.size_bytes
    for _ in range(3 * ESTIMATE_MAX):
        sketch.note(hashed)
    assert sketch.estimate(hashed) == ESTIMATE_MAX
    seen = []
    for _ in range(5):
        sketch.halve()
        seen.append(sketch.estimate(hashed))
    assert seen == [7, 3, 1, 0, 0] and sketch.size_bytes == size_bytes


def test_both_counters_of_a_byte_are_halved():
    assert all(_HALVED[high << 4 | low] == (high // 2) << 4 | low // 2 for high in range(16) for low in range(16))


def test_a_hash_is_the_same_everywhere():
    assert key_hash(key_of()) == KEY_HASH
    assert len({key_hash(key_of(user, tenant)) for user in "uv" for tenant in "tw"}) == 4


def test_the_usual_gap_is_within_a_quarter_octave_of_what_was_seen():
    gaps = ReturnGaps(1024)
    now_ns = 0
    for _ in range(GAPS_LEAST + 1):
        assert gaps.usual_ns is None
        gaps.seen(7, now_ns, is_return=True)
        now_ns += 1_000
    assert 1_000 <= gaps.usual_ns <= 1_250
    for _ in range(4 * GAPS_MAX):
        now_ns += 100_000
        gaps.seen(7, now_ns, is_return=True)
    assert 100_000 <= gaps.usual_ns <= 125_000, "what users do now, not what they did"


def test_a_gap_that_is_no_return_is_not_counted():
    gaps = ReturnGaps(16)
    for at_ns in range(10 * GAPS_LEAST):
        gaps.seen(7, at_ns, is_return=False)
    assert gaps.usual_ns is None


def test_a_psi_that_is_stored_again_in_the_visit_that_found_it_teaches_no_gap(visited):
    for tokens in range(6, 6 + 4 * GAPS_LEAST):
        visited.store("teacher", tokens=tokens)
    assert visited.core._admission._gaps.usual_ns == visited.teacher


@pytest.mark.parametrize("gap_ns", [0, 1, 7, 8, 9, 1_000, 10**9, 2**62])
def test_every_gap_is_below_the_end_of_its_bucket(gap_ns):
    assert gap_ns < _end_of(_bucket_of(gap_ns)) <= max(16, gap_ns + gap_ns // 4 + 8)
