"""Many processes on one DRAM tier whose bytes are damaged and whose processes die: wrong bytes are never believed."""

import pytest

from tests.system.tier_history.damage import ALONE
from tests.system.tier_history.run import Plan, run

OFFERED = 1000
KINDS = {*ALONE, "swap", "stale"} - {"padding"}


@pytest.mark.timeout(240)
async def test_every_damage_that_a_load_comes_upon_is_found_and_no_load_is_stale_or_forgotten(tmp_path):
    verdict, _ = await run(Plan(seed=1, offered=OFFERED), tmp_path)
    found = {name: loads[:3] for name, loads in verdict.problems.items() if loads}
    assert verdict.is_right, found
    assert verdict.counts["undetected"] == 0 and verdict.counts["detected"] == verdict.counts["offered"] >= OFFERED
    assert set(verdict.met) == KINDS, "loads came upon every kind"
    assert verdict.counts["hits"] > OFFERED / 10, "what is whole is loaded"
    assert verdict.counts["unharmed"] > 0, "also where bytes of nobody have changed"


async def test_without_comparing_digests_a_run_is_found_to_be_wrong(tmp_path):
    verdict, _ = await run(Plan(seed=2, offered=40, workers=2, rounds=0, is_blind=True), tmp_path)
    assert verdict.counts["undetected"] > 0 and verdict.problems["wrong_bytes"]
