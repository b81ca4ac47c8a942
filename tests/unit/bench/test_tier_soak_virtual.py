"""Both cores for minutes of virtual time: what they held is given back, and the soak is able to see that it is not."""

from dataclasses import dataclass

import pytest

from bench.load.profile import load_profile
from bench.tiers.soak_dram import Attachment, SoakExpander
from bench.tiers.soak_ranker import SoakRanker
from bench.tiers.soak_time import Timeline
from bench.tiers.soak_virtual import LIMITS, Churn, SoakWorld, VirtualSoak, grown
from bench.tiers.soak_watch import STUCK_NS, SoakFailed, Watch, books_of
from relaygr.domain.identity import PsiKey, UserKey
from services.expander.core.entries import Entries
from services.ranker.core import events as ev
from services.ranker.core.holding import Holding
from services.ranker.core.spilling import Spilling
from tests.unit.ranker_core.histories import chain, key, residency

PROFILE = load_profile("default")
CHURN = Churn(crash_s=40, restart_s=70, stop_s=30)
SECONDS = 300


def soaked(seed: int, seconds: int, *, is_sampled: bool = False) -> VirtualSoak:
    return SoakWorld(PROFILE, seed, CHURN).run(seconds, is_sampled=is_sampled)


@pytest.fixture(scope="module")
def whole() -> VirtualSoak:
    return soaked(1, SECONDS, is_sampled=True)


def test_nothing_is_left_stuck_or_wrong_after_minutes_of_full_tables_crashes_and_lost_answers(whole):
    assert whole.verdict == []
    assert whole.requests > 20 * SECONDS
    assert min(whole.crashes, whole.restarts, whole.stops) > 0


def test_the_tables_were_full(whole):
    rare = ("declined_footprint", "declined_overloaded", "ranks_untracked", "evicted_unspilled", "spills_failed")
    assert all(whole.counters[name] for name in rare)
    rare = ("pin_refused", "pin_expired", "store_busy", "store_forgotten", "owner_lapsed", "evicted")
    assert all(whole.dram_counters[name] for name in rare)
    assert whole.quarantines


def test_every_kind_of_answer_was_given(whole):
    kinds = ("rank_device", "rank_dram", "rank_joined", "rank_overtook", "full_absent", "full_expired", "full_declined")
    assert all(whole.counters[name] for name in kinds)
    kinds = ("productions_failed", "productions_cancelled", "dropped_diverged", "dropped_forgotten", "reloads_overdue")
    assert all(whole.counters[name] for name in kinds)


def test_one_seed_gives_one_run():
    first, again, other = (soaked(seed, 30) for seed in (5, 5, 6))
    assert first.effects == again.effects != other.effects


def test_a_pin_that_is_not_let_go_is_seen(monkeypatch):
    unpin, calls = Entries.unpin, []

    def forgetful(self, entry):
        calls.append(entry)
        if len(calls) != 20:
            unpin(self, entry)

    monkeypatch.setattr(Entries, "unpin", forgetful)
    with pytest.raises(AssertionError, match="pin"):
        soaked(1, 60)


def test_a_lost_page_is_seen(monkeypatch):
    drop, calls = Holding.drop, []

    def forgetful(self, entry, cause):
        calls.append(entry)
        if len(calls) == 20:
            entry.page_ids = entry.page_ids[1:]
        drop(self, entry, cause)

    monkeypatch.setattr(Holding, "drop", forgetful)
    with pytest.raises(AssertionError):
        soaked(1, 60)


def test_a_copy_whose_end_is_never_told_is_stuck(monkeypatch):
    link_ended, calls = Spilling.ended, []

    def deaf(self, event):
        calls.append(event)
        return None if len(calls) == 20 else link_ended(self, event)

    monkeypatch.setattr(Spilling, "ended", deaf)
    with pytest.raises(SoakFailed, match=r"is SPILLING (.*\n)+.*RankEnded: SPILLING"):
        soaked(1, 60)


def test_a_ranker_that_reads_anothers_page_is_seen(monkeypatch):
    monkeypatch.setattr(SoakRanker, "_write", lambda self, page_ids, key, first, end: None)
    assert soaked(1, 10).wrong_pages


def test_an_entry_in_production_for_too_long_tells_its_history():
    machine = residency(pages_total=8)
    watch = Watch("ranker-1", machine)
    machine.handle(ev.PreInferAsked("t", key("ann"), chain("ann", 128), 10**12, ""), 0)
    watch.note("PreInferAsked", 0)
    watch.look(STUCK_NS)
    with pytest.raises(SoakFailed, match="PRODUCING"):
        watch.look(STUCK_NS + 1)
    assert len(books_of(machine).entries.by_id) == 1


@dataclass
class Writer:
    key: PsiKey
    blocks: tuple[int, ...] = (1, 2)


def test_blocks_that_somebody_wrote_over_are_seen():
    expander = SoakExpander(Timeline(), LIMITS)
    expander.start()
    mine, other = (Writer(PsiKey(UserKey("default", user), "model", 0)) for user in ("ann", "bob"))
    expander.write(expander.boot, mine.blocks, mine.key)
    assert expander.holds(mine.blocks, mine.key)
    expander.write(expander.boot, other.blocks[1:], other.key)
    assert not expander.holds(mine.blocks, mine.key)


def test_a_call_of_an_earlier_boot_or_of_nobody_reaches_no_core():
    expander = SoakExpander(Timeline(), LIMITS)
    expander.start()
    assert expander.core is not None
    index = expander.core.attach("ranker-1", 1, 0)
    assert index is not None
    assert expander.current("ranker-1", Attachment(expander.boot, index)) is expander.core
    assert expander.current("ranker-1", Attachment(expander.boot - 1, index)) is None
    assert expander.current("ranker-2", Attachment(expander.boot, index)) is None
    expander.kill()
    assert expander.current("ranker-1", Attachment(expander.boot, index)) is None


def test_growth_compares_the_last_quarter_with_the_second():
    assert grown([5] * 4) == 1.0
    assert grown([100, 100, 10, 10, 15, 15, 20, 20]) == 2.0
