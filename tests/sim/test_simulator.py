"""The simulator itself: the same run from the same seed, and rules that hold over many seeds."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from services.expander.config import ExpanderConfig
from services.ranker.config import RankerConfig
from services.router.config import RouterConfig
from services.router.core.binding import Branch
from services.trigger.config import TriggerConfig
from sim.ablations import ABLATIONS
from sim.kernel import Kernel
from sim.many import fault_of, kept
from sim.population import Population
from sim.run import run, small
from sim.settings import Settings
from tests.sim import bugs

ROOT = Path(__file__).resolve().parents[2]
KEY = b"0" * 16


def test_the_same_seed_makes_the_same_run_in_another_process():
    code = "from sim.run import run, small; print(run(small(3)).kernel.digest)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=50, check=True
    )
    assert int(done.stdout) == run(small(3)).kernel.digest


def test_another_seed_makes_another_run():
    assert run(small(3)).kernel.digest != run(small(4)).kernel.digest


@pytest.mark.parametrize("seed", range(1, 25))
def test_a_small_cluster_holds_its_rules_while_things_go_wrong(seed):
    run(small(seed))


def test_seeds_that_once_failed_hold():
    assert not [text for seed in kept() if (text := fault_of(seed)[1])]


@pytest.mark.parametrize("seed", (1, 2, 3))
def test_while_nothing_goes_wrong_each_rank_meets_its_psi(seed):
    record = run(small(seed, has_faults=False)).record
    assert record.accepted and record.met_instance == record.accepted
    assert not record.errors


@pytest.mark.parametrize("seed", (5, 6))
def test_requests_go_on_while_etcd_is_gone(seed):
    assert not run(small(seed), ("etcd_down", "etcd_empty", "watch_gaps")).record.errors


@pytest.mark.parametrize(("bug", "kinds"), bugs.EVERY, ids=lambda each: getattr(each, "__name__", ""))
def test_a_bug_in_a_core_is_found(monkeypatch, bug, kinds):
    bug(monkeypatch)
    assert any(fault_of(seed, kinds)[1] for seed in range(1, 101))


@pytest.mark.parametrize("ablation", ("", *ABLATIONS))
def test_an_ablation_takes_out_what_its_name_says(ablation):
    settings = replace(small(3, has_faults=False), ablation=ablation, has_dram=ablation != "no_dram")
    cluster = run(settings)
    record = cluster.record
    branches = {branch for router in cluster.routers.values() for branch in router.branches}
    assert (record.decisions.keys() - {"ADMITTED", "DIRECT"} == set()) == (ablation == "no_trigger")
    assert (record.met_instance == record.accepted) == (ablation not in ("no_affinity", "remote_pool"))
    assert ({Branch.SPILL, Branch.LIGHTER} & branches == set()) == (ablation == "no_bound")
    stored = sum(ranker.core.snapshot().counters["spills_stored"] for ranker in cluster.rankers.values())
    assert (stored == 0) == (ablation == "no_dram")


def test_what_happens_at_one_instant_happens_in_order():
    kernel, seen = Kernel(1), []
    for number in range(5):
        kernel.at(7, seen.append, number)
    kernel.at(3, seen.append, "first")
    kernel.run(10)
    assert seen == ["first", 0, 1, 2, 3, 4]
    assert kernel.now_ns == 10


def test_users_who_will_not_return_are_not_remembered():
    settings = Settings(rate_hz=2000.0, seconds=20.0)
    population = Population(Kernel(1), settings)
    while population.next() is not None:
        pass
    assert population.newcomers > 10_000
    assert len(population._returns) < population.newcomers


def test_the_bounds_are_those_that_the_services_start_with():
    settings = Settings()
    router, ranker = RouterConfig(ticket_key=KEY), RankerConfig(ticket_key=KEY, model="m")
    trigger, expander = TriggerConfig(ticket_key=KEY), ExpanderConfig()
    assert settings.spill_floor_ns == router.spill_floor_ns and settings.margin_ns == router.margin_ns
    assert settings.suspect_timeout_ns == int(router.suspect_timeout_ms * 1e6)
    assert settings.resolve_timeout_ns == int(trigger.resolve_timeout_ms * 1e6)
    assert settings.rank_overhead_share == trigger.rank_overhead_share
    assert (settings.rules.tickets_max, settings.rules.load_burst_ns) == (
        trigger.rules.tickets_max,
        trigger.rules.load_burst_ns,
    )
    for name in ("tickets_max", "entries_max", "jobs_max", "spills_max", "chunk_tokens", "rest_tokens"):
        assert getattr(settings, name) == getattr(ranker, name)
    assert settings.heartbeat_ns == int(expander.heartbeat_ms * 1e6)
    assert settings.tiering.pin_ns == expander.limits.pin_ns
    assert settings.tiering.owner_lapse_ns == expander.limits.owner_lapse_ns
