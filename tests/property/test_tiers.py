"""Both tiers of a host together, with their real shared memory: whatever happens, no wrong byte is ever leased.

`make tiers-exact` runs thirty times as many worlds.
"""

from __future__ import annotations

import pytest
from hypothesis.stateful import run_state_machine_as_test

from tests.property.tiers_machine import IS_LONG, RUN, STEPS, Tiers

STEPS_MIN = 10_000


@pytest.mark.timeout(7200 if IS_LONG else 300)
def test_both_tiers_keep_every_invariant_whatever_happens_to_them():
    STEPS.clear()
    run_state_machine_as_test(Tiers, settings=RUN)
    assert STEPS["steps"] >= STEPS_MIN, f"only {STEPS['steps']} steps were taken"
