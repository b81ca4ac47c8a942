"""Sizes and limits: formulas only."""

from dataclasses import replace
from math import inf
from xml.etree import ElementTree

import pytest

from relaygr.plan.demand import PlanError, lengths_of
from relaygr.plan.device import MEASURED, device_of, names
from relaygr.plan.load import load_of
from relaygr.plan.picture import frontier
from relaygr.plan.queueing import line
from relaygr.plan.residence import kept_s
from relaygr.plan.sizing import size
from tests.unit.plan.demands import DEMAND, MODEL

MIB = 1 << 20


@pytest.mark.parametrize("lengths", ("1312", "200", "lognormal:640,1.03,2900"))
def test_more_requests_never_need_fewer_instances(lengths):
    demand = replace(DEMAND, lengths=lengths_of(lengths))
    sizes = [size(replace(demand, rate_hz=rate_hz), MODEL).instances for rate_hz in (1, 17, 60, 61, 110, 400, 3000)]
    assert sizes == sorted(sizes) and sizes[-1] > sizes[0]


def test_a_plan_holds_the_objective_and_its_bounds():
    plan = size(DEMAND, MODEL)
    assert plan.load.tail_ms <= DEMAND.slo_ms and plan.load.busy < 1.0
    assert plan.load.rate_hz * plan.instances == pytest.approx(DEMAND.rate_hz)
    assert plan.load.rate_hz <= plan.instance_hz


def test_shares_of_the_tiers_add_up():
    load = size(DEMAND, MODEL).load
    assert load.device + load.dram + load.made + load.full == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("first", "change"),
    (
        ("device bytes", {"device_bytes": 34 * MIB}),
        ("DRAM bytes", {"dram_bytes": 64 * MIB}),
        ("pre-infer share", {"pre_infer_share": 0.2}),
    ),
)
def test_what_is_short_gives_way_first(first, change):
    demand = replace(DEMAND, lengths=(1312,), rate_hz=20.0)
    model = replace(MODEL, dram_bytes=1 << 40)
    assert size(demand, replace(model, **change)).margins[0].what == first


def test_queueing_gives_way_before_the_device_is_busy_all_the_time():
    margins = {margin.what: margin.margin for margin in size(DEMAND, MODEL).margins}
    assert margins["queueing"] < margins["device time"]


def test_more_room_on_devices_leaves_less_to_dram():
    small, large = (load_of(DEMAND, replace(MODEL, device_bytes=size_), 30.0) for size_ in (64 * MIB, 512 * MIB))
    assert small.device < large.device and small.dram > large.dram


def test_psi_stays_as_long_as_its_tier_takes_to_fill_when_nobody_returns():
    demand = replace(DEMAND, return_share=0.0)
    assert kept_s(demand, bytes_per_s=100.0, room_bytes=250.0) == pytest.approx(2.5)


def test_psi_stays_for_all_gaps_where_there_is_room():
    assert kept_s(DEMAND, bytes_per_s=1.0, room_bytes=1e9) == inf


def test_a_wait_follows_pollaczek_and_khinchine():
    # 50 a second of 10 ms: load 0.5, and a mean wait of half a service.
    assert line(50.0, [(1.0, 10e6)]).mean_ns == pytest.approx(5e6)
    assert line(150.0, [(1.0, 10e6)]).tail(1e12) == 1.0


def test_what_no_size_holds_is_said():
    with pytest.raises(PlanError, match="--slo: no number of instances holds 5 ms"):
        size(replace(DEMAND, slo_ms=5.0), MODEL)


@pytest.mark.parametrize("name", names())
def test_an_example_cites_its_figures_and_does_not_pass_for_a_measurement(name):
    model = device_of(name)
    assert model.sources and model.label != MEASURED
    assert size(DEMAND, model).instances >= 1


def test_the_frontier_is_a_picture_with_a_line_for_each_length():
    root = ElementTree.fromstring(frontier(DEMAND, MODEL, size(DEMAND, MODEL)))
    lines = root.findall("{http://www.w3.org/2000/svg}polyline")
    assert len(lines) >= 6 and all(line.get("points") for line in lines[:5])
