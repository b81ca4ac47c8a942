"""What `make compose-test` holds a run to."""

from dataclasses import replace

import pytest

from scripts.compose_test import Result

GOOD = Result(
    healthy_s=30.0,
    requests=200,
    answered=200,
    trace_complete=0.99,
    signals_amiss=[],
    down_s=4.0,
    image_mb={"relaygr": 400},
)


def test_a_run_that_meets_every_target_passes():
    assert GOOD.missed() == []


@pytest.mark.parametrize(
    "change",
    [
        {"healthy_s": 180.0},
        {"healthy_s": -1.0},
        {"answered": 199},
        {"requests": 0, "answered": 0},
        {"trace_complete": 0.985},
        {"signals_amiss": ["router: a span"]},
        {"down_s": 15.0},
        {"down_s": -1.0},
    ],
)
def test_each_target_can_be_missed(change):
    assert len(replace(GOOD, **change).missed()) == 1
