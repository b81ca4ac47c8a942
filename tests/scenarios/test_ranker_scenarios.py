"""Golden scenarios of the ranker's core. REWRITE=1 writes what is so; read the diff before you believe it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.scenarios.ranker_script import rewritten

SCENARIOS = sorted((Path(__file__).parent / "ranker").glob("*.txt"))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_effects_are_exactly_those_written_down(path: Path):
    script = path.read_text()
    now = rewritten(script)
    if os.environ.get("REWRITE"):
        path.write_text(now)
    else:
        assert now == script


def test_a_changed_effect_is_noticed():
    script = (Path(__file__).parent / "ranker" / "happy_relay.txt").read_text()
    changed = script.replace("from_tokens=0", "from_tokens=1")
    assert changed != script
    assert rewritten(changed) != changed
