"""The machine over both tiers finds bugs: of each of these it complains within a bounded number of worlds.

Those that take longest to find are looked for by `make tiers-exact` alone.
"""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.property.tiers_bugs import BUGS, RARE_BUGS
from tests.property.tiers_machine import IS_LONG, SEARCH, Tiers

WORLDS_MAX = 4_000 if IS_LONG else 2_000
"""Seldom needed: over five seeds none of the quick ones took more than 391, and half took fewer than ten."""


@pytest.mark.timeout(3600 if IS_LONG else 300)
@pytest.mark.parametrize("bug", BUGS + (RARE_BUGS if IS_LONG else ()), ids=lambda bug: bug.__name__)
def test_the_machine_finds(bug, monkeypatch):
    bug(monkeypatch)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Tiers, settings=settings(SEARCH, max_examples=WORLDS_MAX))
