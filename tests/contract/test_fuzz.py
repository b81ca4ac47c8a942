"""A short, seeded part of `make fuzz`, and every input that once was a fault."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.__main__ import WEIGHTS
from tests.fuzz.corpus import CORPUS, kept

ROOT = Path(__file__).resolve().parent.parent.parent
INPUTS = 5_000


@pytest.mark.timeout(180)
def test_nothing_that_comes_from_outside_crashes_hangs_or_leaks() -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--inputs", str(INPUTS), "--seed", "1", "--workers", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stderr[-8_000:]
    found = json.loads(done.stdout)
    assert found["inputs"] >= INPUTS
    assert {target: found[target]["replayed"] for target in WEIGHTS} == {
        target: len(kept(target)) for target in WEIGHTS
    }
    # What is refused at the first check tells nothing of what comes behind it.
    assert all(found[target]["accepted_share"] > 0.1 for target in WEIGHTS), found


def test_kept_inputs_are_of_targets_that_there_are() -> None:
    assert {path.name for path in CORPUS.iterdir()} <= set(WEIGHTS)
