"""A handful of the chaos suite's scenarios, with short phases: kills, a stop, and etcd gone, under open-loop load."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.chaos.__main__ import run
from tests.chaos.catalogue import ALL, SHORT
from tests.chaos.report import line_of
from tests.chaos.scenario import Pace, Scenario

pytestmark = pytest.mark.timeout(180)

PACE = Pace(warm_s=2.0, before_s=2.5, after_s=4.5, settle_least_s=0.5)
LASTS_S = 3.0
"""Longer than the leases of the registrations."""


def untimed(scenario: Scenario) -> Scenario:
    """Without the rules that a machine with other work breaks; `make chaos` has them."""
    holds = replace(scenario.holds, recovery_s_max=None, tier_back_s=4 * scenario.holds.tier_back_s)
    return replace(scenario, holds=holds)


def test_under_faults_every_request_ends_no_score_is_wrong_and_nothing_is_left_behind(tmp_path):
    scenarios = [untimed(replace(one, lasts_s=LASTS_S)) for one in ALL if one.name in SHORT]
    played = run(scenarios, PACE, 1, tmp_path, has_console=False)
    line = line_of(played, 1, 0.0)
    assert line["scenarios"].keys() == set(SHORT)
    assert (line["wrong_scores"], line["unanswered"], line["leaks"]) == (0, 0, 0), line
    assert not line["broken"], line
    for one in played:
        # Load went on in each phase, and the relay was in use.
        assert one.verdict.requests > 100 and {"before", "during"} <= one.verdict.p99_ms.keys()
        assert one.verdict.tiers["DEVICE"] and one.verdict.tiers["FULL"] < one.verdict.requests / 2
