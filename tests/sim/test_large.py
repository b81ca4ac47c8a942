"""Large runs: what they hash, what they check, and what they say of themselves."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from relaygr.domain.identity import PsiKey, UserKey
from services.ranker.core.effects import Accept, Acceptance, RankOnPsi, StartLookup, Tier
from services.ranker.core.residency import Residency
from services.router.core.orders import KEPT, SlotOrders
from services.router.core.slots import ring_order
from sim import checks, large
from sim.chains import LogChain
from sim.cluster import Cluster
from sim.compiled import ROOT, digest_of, modules
from sim.effects import EffectHash

RANK = RankOnPsi(1, 2, (3, 4), 200, Tier.DEVICE, "", 0)
LOOKUP = StartLookup(1, PsiKey(UserKey("default", "7"), "m", 0), LogChain(7, 100, 1, 50))


def hash_of(*effects):
    taken = EffectHash(1)
    for effect in effects:
        taken.note(effect)
    return taken.value()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (RANK, replace(RANK, page_ids=(3, 5))),
        (RANK, replace(RANK, tier=Tier.DRAM)),
        (LOOKUP, replace(LOOKUP, chain=LogChain(7, 101, 1, 50))),
        (LOOKUP, replace(LOOKUP, key=replace(LOOKUP.key, owner=UserKey("default", "8")))),
    ],
)
def test_an_effect_that_differs_anywhere_makes_another_hash(one, other):
    assert hash_of(one) == hash_of(replace(one))
    assert hash_of(one) != hash_of(other)


def test_reading_the_hash_does_not_change_it():
    effects = [Accept(str(number), Acceptance.STARTED) for number in range(10_000)]
    read = EffectHash(1)
    for effect in effects:
        read.note(effect)
        if effect.ticket_id.endswith("77"):
            read.value()
    assert read.value() == hash_of(*effects) != hash_of(*reversed(effects))


def test_a_large_run_says_what_it_was_and_is_the_same_again(capsys):
    lines = []
    for _ in range(2):
        assert large.main(["--instances", "8", "--requests", "1200", "--seed", "5"]) == 0
        lines.append(json.loads(capsys.readouterr().out))
    keys = "instances users requests events_per_s seconds effect_hash slo_met survival affinity max_over_mean_load"
    assert {*keys.split(), "memory_bytes"} <= lines[0].keys()
    assert lines[0]["requests"] == 1200 and lines[0]["users"] == 10_000_000
    assert lines[0]["effect_hash"] == lines[1]["effect_hash"]


def test_a_large_run_checks_what_each_event_touched(monkeypatch):
    handle, count = Residency.handle, 0

    def breaking(self, event, now_ns):
        nonlocal count
        effects = handle(self, event, now_ns)
        count += 1
        if count == 500:
            for entry in self._attended:
                entry.goal_tokens = -1
        return effects

    monkeypatch.setattr(Residency, "handle", breaking)
    cluster = Cluster(large.sized(8, 3.0, 5))
    cluster.begin()
    with pytest.raises(AssertionError):
        cluster.kernel.run(3_000_000_000)
    assert count < 510


def test_everything_is_checked_at_each_step_of_a_large_run(monkeypatch):
    monkeypatch.setattr(large, "STEP_REQUESTS", 200)
    cluster = Cluster(large.sized(8, 3.0, 5))
    kinds = Counter(type(machine).__name__ for machine in cluster._machines())
    assert kinds == {"Residency": 8, "Schedule": 8, "Tiering": 1, "Binding": 1, "Admission": 1}
    large.run_telling(cluster)
    assert cluster.checks.whole == 6, "960 requests, and once more at the end"


def test_what_breaks_where_no_event_looks_is_found_at_the_next_step(monkeypatch):
    monkeypatch.setattr(large, "STEP_REQUESTS", 200)
    monkeypatch.setattr(checks, "EVERY", 10**9)
    cluster = Cluster(large.sized(8, 3.0, 5))
    books = cluster.rankers["ranker-0003"].core._books
    cluster.kernel.after(1_000_000_000, lambda: books.pages._free.pop())
    with pytest.raises(AssertionError, match="pages leaked"):
        large.run_telling(cluster)
    assert cluster.kernel.now_ns < 2_000_000_000


def test_the_first_of_a_slot_among_equals_are_those_of_its_whole_order():
    weights = {f"ranker-{number}": 7 for number in range(200)}
    orders = SlotOrders()
    orders.renew(weights)
    for slot in range(50):
        walk = orders.walk(slot)
        assert [next(walk) for _ in range(KEPT)] == list(ring_order(slot, weights)[:KEPT])


def test_another_source_is_another_compiled_copy(tmp_path):
    files = modules(ROOT)
    assert "services/ranker/core/residency.py" in files and "sim/nodes/router.py" in files
    (tmp_path / "sim").mkdir()
    source = tmp_path / "sim" / "kernel.py"
    source.write_text("a = 1\n")
    before = digest_of(tmp_path)
    source.write_text("a = 2\n")
    assert digest_of(tmp_path) != before
