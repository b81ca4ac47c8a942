"""A probe of the load benchmark on the real services: what was planned is sent, and what is counted happened."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.load import probe
from bench.load.ablations.modes import MODES
from bench.load.deployment import Deployment, deployed
from bench.load.ground import Ground, prepare
from bench.load.outcome import Outcome, read_outcomes
from bench.load.probe import GENERATOR, Probe, run_probe
from bench.load.profile import Profile, load_profile
from bench.load.replay import replay
from bench.load.trace import read_trace
from bench.load.traffic import Plan, plan

TOKENS, RATE_HZ, REQUESTS, WARM, SEED = 128, 10.0, 60, 10, 3
AT_RISK_MS = 0.001
"""A ranking budget that no full inference meets."""

pytestmark = pytest.mark.timeout(120)


def small_profile() -> Profile:
    """The committed one, with few users of short histories."""
    whole = load_profile("default")
    return replace(
        whole,
        stages=replace(whole.stages, spread=0.2),
        traffic=replace(whole.traffic, candidates=32, requests=REQUESTS, warmup_s=WARM / RATE_HZ),
        deployment=replace(whole.deployment, device_budget_mb=64, dram_budget_mb=128),
        model=replace(whole.model, users=64, behaviours=256),
    )


@pytest.fixture(autouse=True)
def no_wait_for_a_quiet_machine(monkeypatch) -> None:
    """No latency is judged here."""
    monkeypatch.setattr(probe, "QUIET_WAIT_S", 0.0)


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Ground:
    return prepare(small_profile().model, tmp_path_factory.mktemp("ground"))


@contextmanager
def running(mode: str, profile: Profile, ground: Ground, folder: Path) -> Iterator[Deployment]:
    with deployed(MODES[mode], profile, ground, folder / "run") as deployment:
        yield deployment


def probed(deployment: Deployment, folder: Path) -> tuple[dict[str, Any], list[Outcome]]:
    """A probe's row and all its outcomes, once what holds in every mode was checked."""
    profile = deployment.profile
    wanted = Probe(purpose="test", tokens=TOKENS, rate_hz=RATE_HZ, seed=SEED, traffic=profile.traffic, first_user=0)
    processes = {name for name, _ in deployment.processes}
    row = run_probe(deployment, wanted, folder / "probe")
    outcomes = read_outcomes(folder / "probe" / "outcomes.jsonl")
    planned = plan(
        Plan(
            traffic=profile.traffic,
            stages=profile.stages,
            rate_hz=RATE_HZ,
            seed=SEED,
            first_user=0,
            users=profile.model.users,
            tokens=TOKENS,
        )
    )
    assert read_trace(folder / "probe" / "trace.jsonl") == planned
    assert [outcome.index for outcome in outcomes] == [request.index for request in planned]
    assert not [outcome.error for outcome in outcomes if outcome.error]
    assert (row["requests"], row["warmup"], row["errors"]) == (REQUESTS, WARM, {})
    assert {"ranker-1", "ranker-2", "router", "trigger"} <= processes
    assert set(row["cpu_share"]) == {*processes, GENERATOR}
    assert all(row["cpu_share"][name] > 0 for name in ("ranker-1", "ranker-2", "router", GENERATOR))
    assert row["rank_ms"]["count"] == row["end_to_end_ms"]["count"] == REQUESTS
    for request, outcome in zip(planned, outcomes, strict=True):
        # Nobody is asked before the plan says so, and the stages are part of the whole.
        assert outcome.arrive_late_ns >= 0 and outcome.rank_late_ns >= 0
        assert outcome.end_to_end_ns - outcome.rank_ns == request.due_ns - request.arrives_ns
        assert outcome.rank_ns >= outcome.rank_late_ns + outcome.call_ns >= outcome.total_ns > 0
    return row, outcomes


def test_in_mode_full_every_rank_is_inferred_in_full_and_nothing_is_announced(ground, tmp_path):
    with running("full", small_profile(), ground, tmp_path) as deployment:
        row, outcomes = probed(deployment, tmp_path)
        faster = read_trace(tmp_path / "probe" / "trace.jsonl", speed=4.0)
        again = replay(deployment, faster, tmp_path / "replay")
    assert row["tiers"] == again["tiers"] == {"FULL": REQUESTS}
    assert again["requests"] == REQUESTS and again["errors"] == {}
    assert again["achieved_hz"] == pytest.approx(4 * row["achieved_hz"], rel=0.01)
    assert row["decisions"] == {} and row["admitted"] == 0
    assert {outcome.arrive_ns for outcome in outcomes} == {-1}
    assert set(row["instances"]) == {"ranker-1", "ranker-2"}


def test_in_mode_relay_dram_requests_at_risk_are_ranked_on_psi(ground, tmp_path):
    profile = small_profile()
    with running("relay_dram", replace(profile, slo=replace(profile.slo, rank_ms=AT_RISK_MS)), ground, tmp_path) as one:
        row, outcomes = probed(one, tmp_path)
    assert sum(row["decisions"].values()) == REQUESTS
    assert row["admitted"] == row["decisions"]["ADMITTED"] > 0.9 * REQUESTS
    assert row["survived"] >= 0.9 * row["admitted"]
    assert sum(row["tiers"].values()) == REQUESTS and row["tiers"].get("FULL", 0) < 0.2 * REQUESTS
    assert 0 < row["returns"] < REQUESTS
    assert all(outcome.arrive_ns > 0 for outcome in outcomes)
    # No rank takes a microsecond: by this budget all are late.
    assert row["late"] == REQUESTS and not row["held"]
