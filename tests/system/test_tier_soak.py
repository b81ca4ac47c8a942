"""A short soak: load on tiny arenas while the expander and a ranker are killed; then nothing is held any more."""

from __future__ import annotations

import pytest

from bench.load.profile import load_profile
from bench.tiers.soak_churn import Blow, Harm
from bench.tiers.soak_real import RealSettings, soak

pytestmark = pytest.mark.timeout(240)

SECONDS = 18.0
RATE_HZ = 20.0
BLOWS = (Blow(Harm.KILL, "expander"), Blow(Harm.KILL, "ranker-1"), Blow(Harm.STOP, "ranker-2"))


def test_kills_under_load_leave_no_pin_ticket_store_or_quarantine_and_no_wrong_score(tmp_path):
    # The third blow comes when the load has ended, and so does not come.
    settings = RealSettings(
        seconds=SECONDS, rate_hz=RATE_HZ, churn_s=0.36 * SECONDS, blows=BLOWS, sample_s=2.0, run_dir=tmp_path
    )
    found = soak(settings, load_profile("default"))
    line = found.to_json()
    assert found.blows == {"expander kill -9": 1, "ranker-1 kill -9": 1}
    assert found.leaked.keys() >= {"pins", "tickets", "jobs", "staging_bytes", "quarantined_bytes", "reserved_pages"}
    assert not any(found.leaked.values()), line
    assert all(any(sample.held.get(name) for sample in found.samples) for name in ("tickets", "reserved_pages"))
    assert found.must_be_zero.keys() >= {"corrupt", "race_report_unexpected"}
    assert not any(found.must_be_zero.values()), line
    assert found.outcome.verified and not found.outcome.wrong_scores
    assert found.outcome.tiers["DEVICE"] and found.outcome.tiers["DRAM"]
    assert line["verdict"] == "ok", line
