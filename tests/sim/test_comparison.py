"""What is compared in the report: parts taken out, fetched psi, users few of whom ask often, and phases of traffic."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from sim import comparison
from sim.kernel import SECOND, Kernel
from sim.nodes.pool import Links
from sim.run import run
from sim.settings import MIB, Settings
from sim.shaped import phased_times_s, population_of, zipf_rank

SETTINGS = Settings(instances=4, instances_per_host=2, rate_hz=100.0, seconds=5.0, device_budget_bytes=64 * MIB)
POOLED = replace(SETTINGS, ablation="remote_pool", has_dram=False)


def test_a_comparison_has_each_size_traffic_and_part(monkeypatch):
    for name, value in {"ABLATIONS": ("no_dram",), "WARM_S": 1.0, "LEAST_S": 1.0}.items():
        monkeypatch.setattr(comparison, name, value)
    told = []
    found = comparison.compared([2], 1.0, 1, lambda name, figures: told.append(name))
    assert told == [f"2 {traffic} {part}" for traffic in ("visits", "skewed", "twice") for part in ("none", "no_dram")]
    assert found["2"]["twice"]["none"]["requests"] > 1.5 * found["2"]["visits"]["none"]["requests"]
    assert not found["2"]["visits"]["no_dram"]["tiers"].get("DRAM")


def test_psi_in_a_pool_are_fetched_by_whatever_instance_ranks():
    cluster = run(POOLED)
    record = cluster.record
    counts = [ranker.core.snapshot().counters for ranker in cluster.rankers.values()]
    assert sum(each["lookup_hits"] for each in counts) > 0.7 * record.accepted
    assert not sum(each["reloads_failed"] for each in counts)
    assert record.tiers["JOINED"] > 0.7 * record.accepted, "a rank waits for psi that are on their way to it"
    assert record.met_instance < 0.5 * record.accepted
    assert not record.errors


def test_ranks_wait_for_the_link_that_psi_come_over():
    quick, slow = (
        run(replace(POOLED, checks="some", link_bytes_per_s=speed)).record.quantile_ms(0.5) for speed in (2.5e10, 5e8)
    )
    assert slow > quick + 2.0


def test_a_link_carries_one_transfer_after_the_other_in_each_direction():
    links = Links(1e9)
    assert links.pass_ns("a", "b", 1_000, 0) == 1_000
    assert links.pass_ns("a", "c", 1_000, 0) == 2_000, "behind what leaves a"
    assert links.pass_ns("d", "b", 1_000, 500) == 1_500, "behind what comes to b"
    assert links.pass_ns("b", "a", 1_000, 500) == 1_000, "the other way is free"
    assert links.pass_ns("a", "b", 1_000, 9_000) == 1_000


def test_phases_multiply_the_rate():
    settings = Settings(rate_hz=1000.0, seconds=6.0, phases=((2.0, 1.0), (1.0, 4.0), (3.0, 0.5)))
    counts, _ = np.histogram(phased_times_s(settings), bins=(0.0, 2.0, 3.0, 6.0))
    assert counts.tolist() == pytest.approx([2000, 4000, 1500], rel=0.08)


@pytest.mark.parametrize("exponent", (0.7, 1.0, 1.3))
def test_users_are_drawn_by_zipfs_law(exponent):
    places = Counter(zipf_rank((draw + 0.5) / 20_000, 1000, exponent) for draw in range(20_000))
    assert min(places) == 0 and max(places) <= 999
    # From the tenth on, where the law's sum and its integral hardly differ.
    assert places[10] / places[40] == pytest.approx((41.5 / 11.5) ** exponent, rel=0.1)


def test_a_user_drawn_often_rests_between_two_requests_and_its_history_grows():
    population = population_of(Kernel(1), Settings(rate_hz=200.0, seconds=5.0, users=50, zipf=1.2))
    last = {}
    while (request := population.next()) is not None:
        if request.user in last:
            at_ns, tokens = last[request.user]
            assert request.arrives_ns - at_ns >= SECOND // 2
            assert request.chain.tokens + request.anchor > tokens
        last[request.user] = request.arrives_ns, request.chain.tokens + request.anchor
    assert len(last) > 50
