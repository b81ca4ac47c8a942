"""Figures of a run checked by hand; what is not there is null."""

import json
import math
from typing import Any

import pytest

from bench.load.schema import FULL, RELAY_DRAM, Run
from bench.load.summary import ratio, summary
from bench.load.verdicts import BETTER, SAME, WORSE, Claim, ablations, claims, losses
from tests.unit.bench.load_run import L0, L1, RATES, document, probe, search


def test_rates_lengths_and_ratios_are_those_of_the_searches():
    told = summary(document())
    assert (told["slo_ms"], told["l0_tokens"], told["l1_tokens"], told["seconds"]) == (50, L0, L1, 900)
    assert told["qps_at_l0"]["relay_dram"] == {"value": 40, "low": 36, "high": 44}
    assert {mode: found["value"] for mode, found in told["qps_at_l1"].items()} == {m: r[1] for m, r in RATES.items()}
    assert (told["throughput_ratio_l0"]["value"], told["throughput_ratio_l1"]["value"]) == (4, 10)
    assert told["length_ratio"]["value"] == 4 and told["fixed_rate_hz"] == 5
    assert told["max_tokens"]["relay"] is None


def test_intervals_of_a_ratio_add_as_squares_of_logarithms():
    found = ratio({"value": 20, "low": 18, "high": 22}, {"value": 2, "low": 1.8, "high": 2.2})
    down, up = math.log(1 / 0.9), math.log(1.1)
    reach = math.hypot(down, up)
    assert found is not None
    assert found["low"] == pytest.approx(10 * math.exp(-reach), rel=1e-3)
    assert found["high"] == pytest.approx(10 * math.exp(reach), rel=1e-3)


def test_a_rate_without_upper_bound_leaves_that_of_the_ratio_open():
    above: dict[str, float | None] = {"value": 20, "low": 18, "high": None}
    below: dict[str, float | None] = {"value": 2, "low": 1.8, "high": 2.2}
    up, down = ratio(above, below), ratio(below, above)
    assert up and down and (up["high"], down["low"]) == (None, None)
    assert up["low"] is not None and down["high"] is not None


def test_a_search_that_reached_its_most_has_no_upper_bound():
    run = document(searches=[search(RELAY_DRAM, 100, at_tokens=L1, is_bounded=False, high=110)])
    assert summary(run)["qps_at_l1"][RELAY_DRAM] == {"value": 100, "low": 90, "high": None}


def test_the_ceiling_is_rankers_over_the_work_of_a_request_over_full():
    # 0.4 * 25 + 0.6 * 5 + 12 = 25 ms; 2 rankers: 80 requests/s; full reached 10.
    assert summary(document())["ceiling_l0"] == 8.0
    # With three in ten requests reloading for 2 ms: 25.6 ms.
    reloading = document(config=document()["config"] | {"reload_share": 0.3})
    assert summary(reloading)["ceiling_l0"] == pytest.approx(2000 / 25.6 / 10, rel=1e-3)


def test_the_ceiling_of_the_host_adds_all_other_processor_time():
    # At 40 requests/s others use 0.2 cores: 5 ms. Rankers use 1.2 cores: 30 ms, 5 beyond the jobs. 2 cores: 2000 / 35.
    assert summary(document())["ceiling_l0_host"] == pytest.approx(2000 / 35 / 10, rel=1e-3)


def test_counts_are_of_relay_drams_probes_at_its_rate_at_l1_without_disturbed_ones():
    told = summary(document())
    assert told["tiers"] == {"DEVICE": 0.95, "DRAM": 0.025, "FULL": 0.025}
    assert told["survival"] == pytest.approx((931 + 950) / 1900, abs=1e-5)
    assert told["reuse"] == pytest.approx(1140 / 1200)
    assert told["cpu_share"] == {"router": 0.08, "trigger": 0.04}
    assert told["relay_overhead_ms"] == {"p50": 1.5, "p99": 4.0, "count": 500}


@pytest.mark.parametrize("run", [{}, document(probes=None), document(searches=None), document(config=None, work=None)])
def test_what_was_not_measured_is_null_and_the_line_has_all_its_keys(run: Run):
    told = json.loads(json.dumps(summary(run)))
    assert told.keys() == summary(document()).keys()
    if not run.get("searches"):
        assert told["throughput_ratio_l1"] is told["survival"] is told["ceiling_l0"] is told["length_ratio"] is None
    if not run.get("probes"):
        assert told["tiers"] is told["cpu_share"] is told["relay_overhead_ms"] is told["ceiling_l0_host"] is None
    if not run.get("work"):
        assert told["ceiling_l0"] is None


@pytest.mark.parametrize(
    ("bounds", "wanted"),
    [
        ((9.0, 8.5, 9.5), "goal met"),
        ((9.0, 3.5, 11.0), "goal met; the interval reaches below the target"),
        ((4.0, 3.7, 4.4), "target met, goal not"),
        ((3.0, 2.5, 3.5), "short"),
        ((3.0, 2.5, 3.7), "short, but the interval reaches the target"),
        ((9.0, None, None), "goal met; the interval reaches below the target"),
    ],
)
def test_a_claim_is_held_to_its_target_and_goal(bounds: tuple[float | None, ...], wanted: str):
    measured = dict(zip(("value", "low", "high"), bounds, strict=True))
    assert Claim("x", "", 3.6, measured, 3.6, 8.0).verdict == wanted


def test_the_goal_at_l0_is_a_share_of_the_ceiling():
    at_l0 = claims(document())[0]
    assert at_l0.goal == pytest.approx(0.85 * 8) and at_l0.verdict == "target met, goal not"
    unknown = claims(document(work=None))[0]
    assert unknown.goal is None and "goal is not known" in unknown.verdict


def test_an_ablation_is_worse_only_when_the_intervals_are_apart():
    found = {(one.mode, one.figure): one.verdict for one in ablations(document())}
    assert found["no_trigger", f"requests/s at {L1} tokens"] == WORSE
    assert found["no_affinity", f"requests/s at {L1} tokens"] == SAME
    assert found["remote_pool", f"late share at {L1} tokens, 20 requests/s"] == WORSE
    faster: list[Any] = [search("relay", 60, at_tokens=L1), search(RELAY_DRAM, 20, at_tokens=L1)]
    assert [one.verdict for one in ablations(document(searches=faster, probes=[]))] == [BETTER]


def test_a_loss_names_both_sides_and_nothing_when_one_was_not_probed():
    run = document()
    said = losses(run, L1, 1.5, "cold")
    assert said is not None and "P50 18 ms against 12 (1.50x)" in said and "P99 60 ms against 48 (1.25x)" in said
    assert losses(run, L1, 40.0, "overload") is None
    run["probes"] = [probe(FULL, L1, 1.5, "cold"), probe(RELAY_DRAM, L1, 1.5, "cold", is_disturbed=True)]
    assert losses(run, L1, 1.5, "cold") is None


def test_a_ratio_over_what_held_nothing_is_a_lower_bound_and_no_value():
    run = {
        "lengths": {"l0_tokens": 500, "l1_tokens": 900},
        "searches": [
            {"mode": "full", "kind": "rate", "at_tokens": 900, "value": None, "failed_probe_rates": [6.0, 4.0]},
            {"mode": "relay_dram", "kind": "rate", "at_tokens": 900, "value": 16.0, "low": 12.0, "high": 20.0},
        ],
    }
    told = summary(run)
    assert told["throughput_ratio_l1"] == {"value": None, "low": 3.0, "high": None}
    assert told["throughput_ratio_l0"] is None
    assert next(one for one in claims(run) if one.figure == "throughput_ratio_l1").verdict.startswith("at least 3")
