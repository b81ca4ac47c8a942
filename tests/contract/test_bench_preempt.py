"""The measurement of preemption, on a small model: it counts what it says, and sees a step that is too long."""

from __future__ import annotations

import time

from bench.engine.preempt import Load, measure_preempt
from relaygr.behaviours.columns import FeatureSpec
from relaygr.model.hstu import HstuModel
from tests.model.models import small_model

LOAD = Load(pre_infer_tokens=512, psi_tokens=128, candidates=8, count=5)
LONG_S = 0.01


class Coarse(HstuModel):
    """Holds the device for longer than it needs."""

    def extend(self, x_TD, self_only, context, write):
        steps = super().extend(x_TD, self_only, context, write)
        if not self_only:
            time.sleep(LONG_S)
        return (yield from steps)


def plain_model() -> HstuModel:
    return small_model(features=FeatureSpec())


def coarse_model() -> HstuModel:
    model = plain_model()
    model.__class__ = Coarse
    return model


def test_as_many_ranks_are_measured_as_were_asked_for():
    measured = measure_preempt(plain_model, LOAD)
    assert measured["count"] >= LOAD.count
    assert measured["ranks"] >= measured["count"]
    assert 0 < measured["preempt_wait_p50_ms"] <= measured["preempt_wait_p99_ms"] <= measured["preempt_wait_max_ms"]


def test_a_step_that_is_too_long_is_seen():
    measured = measure_preempt(coarse_model, LOAD)
    assert measured["pre_infer_step_max_ms"] >= LONG_S * 1e3
    assert measured["preempt_wait_max_ms"] > 1.0
