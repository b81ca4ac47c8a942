"""A size from formulas, and the simulator's word on it."""

import json
from dataclasses import asdict, replace

import pytest

from relaygr.cli import main
from relaygr.plan.demand import lengths_of
from relaygr.plan.sizing import size
from sim import planned
from tests.unit.plan.demands import DEMAND as DEMAND_MIXED
from tests.unit.plan.demands import MODEL

DEMAND = replace(DEMAND_MIXED, rate_hz=80.0, lengths=lengths_of("1312"))


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(planned, "REQUESTS", 3000)


def confirmed(demand, instances):
    return planned.confirm({"demand": asdict(demand), "model": asdict(MODEL), "instances": instances})


@pytest.mark.parametrize("lengths", ("1312", "lognormal:640,1.03,2900"))
def test_a_plan_that_fits_is_confirmed(lengths):
    demand = replace(DEMAND, lengths=lengths_of(lengths))
    plan = size(demand, MODEL)
    found = confirmed(demand, plan.instances)
    assert found["is_confirmed"], found["said"]
    assert found["on_device"] == pytest.approx(plan.load.device + plan.load.made, abs=0.15)


def test_half_as_many_as_needed_are_not_confirmed():
    demand = replace(DEMAND, rate_hz=400.0)
    assert not confirmed(demand, size(demand, MODEL).instances // 3)["is_confirmed"]


def test_a_large_plan_is_run_as_a_part_of_it_under_the_same_load():
    settings = planned.settings_of(
        {"demand": asdict(replace(DEMAND, rate_hz=6000.0)), "model": asdict(MODEL), "instances": 120}
    )
    assert settings.instances == planned.INSTANCES_MOST
    assert settings.rate_hz / settings.instances == pytest.approx(50.0)


def test_the_command_has_its_plan_confirmed_in_a_process_of_its_own(capsys):
    options = ("--qps", "20", "--length-distribution", "1312", "--cost-model", "cpu-core-zen5", "--json")
    assert main(["plan", *options, "--reuse", "0.6,2.2,0.7"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["simulated"]["is_confirmed"] and document["simulated"]["requests"] > 10_000
