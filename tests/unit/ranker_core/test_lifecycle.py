import subprocess
import sys
from pathlib import Path

import pytest

from services.ranker.core.lifecycle import TRANSITIONS, Cause, PsiState, assert_allowed

ROOT = Path(__file__).resolve().parents[3]


def test_every_state_can_be_reached_and_can_end():
    arrows = {(source, target) for (source, _), targets in TRANSITIONS.items() for target in targets}
    assert closure({PsiState.ABSENT}, arrows) == set(PsiState)
    assert closure({PsiState.ABSENT}, {(target, source) for source, target in arrows}) == set(PsiState)


def closure(reached: set, arrows: set) -> set:
    while more := {target for source, target in arrows if source in reached} - reached:
        reached = reached | more
    return reached


def test_every_cause_is_used():
    assert {cause for _, cause in TRANSITIONS} == set(Cause)


def test_a_forgotten_psi_can_only_end():
    assert {
        target for (source, _), targets in TRANSITIONS.items() if source == PsiState.LEAVING for target in targets
    } == {PsiState.ABSENT}


@pytest.mark.parametrize(
    ("source", "cause", "target"),
    [
        (PsiState.PRODUCING, Cause.EVICTED, PsiState.ABSENT),
        (PsiState.SPILLING, Cause.EVICTED, PsiState.ABSENT),
        (PsiState.SPILLING, Cause.PRE_INFER_ASKED, PsiState.PRODUCING),
        (PsiState.CANCELLING, Cause.UNWANTED, PsiState.ABSENT),
        (PsiState.LEAVING, Cause.PRE_INFER_ASKED, PsiState.PRODUCING),
    ],
)
def test_transitions_that_would_lose_or_tear_psi_are_refused(source, cause, target):
    with pytest.raises(AssertionError, match="may not become"):
        assert_allowed(source, cause, target)


def test_the_picture_in_the_readme_is_the_table():
    done = subprocess.run(
        [sys.executable, "scripts/gen_state_picture.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
