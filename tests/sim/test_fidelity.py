"""The measured small cluster, simulated: its inputs are the run's, its traces are sent, its cores are shared."""

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from services.ranker.core.jobs import rank_job
from sim.cores import STEP_NS, Cores
from sim.device import Device, Task
from sim.fidelity import fidelity, newest_report
from sim.fidelity_table import table
from sim.kernel import MS, Kernel
from sim.machine import Machine
from sim.measured import HostWork, Unmeasured, is_compared, measured_of
from sim.nodes.process import Process
from sim.settings import Settings

REPORT = Path(__file__).resolve().parents[2] / "bench" / "reports" / "load_amd-epyc-avx512bf16-2c_2026-11-28"
TOKEN_BYTES = 4096


@pytest.fixture(scope="module")
def run():
    return json.loads((REPORT / "run.json").read_text())


@pytest.fixture(scope="module")
def machine(run):
    return Machine(run)


def devices_of(kernel, count):
    return [Device(Process(kernel, f"r{n}", "h"), Random(1), jobs_max=9, layers=4, loop_ns=0) for n in range(count)]


def begun(kernel, device, took_ns):
    """A job that takes so long, and where its end will stand."""
    ends_ns = []
    job = rank_job(Settings().cost, 1, 10, 0, 100, 1 << 60)
    task = Task(job, [took_ns], lambda *_: ends_ns.append(kernel.now_ns), None)
    assert device.submit(task)
    return ends_ns


def test_other_work_takes_nothing_from_a_device_while_a_core_is_idle():
    kernel = Kernel(1)
    devices = devices_of(kernel, 2)
    ends_ns = begun(kernel, devices[0], 10 * MS)
    Cores(kernel, devices, 2).want(3 * STEP_NS)
    kernel.run(1 << 40)
    # Of a step's two cores one is free; the work of one request is done by one core at a time.
    assert ends_ns == [10 * MS]


def test_other_work_delays_devices_alike_when_no_core_is_idle():
    kernel = Kernel(1)
    devices = devices_of(kernel, 2)
    ends_ns = [begun(kernel, device, 10 * MS) for device in devices]
    cores = Cores(kernel, devices, 2)
    cores.want(4 * MS)
    kernel.run(1 << 40)
    assert ends_ns == [[12 * MS], [12 * MS]] and cores.taken_ns == 4 * MS and cores.backlog_ns == 0


def test_times_of_a_run_are_those_that_it_measured(run):
    measured = measured_of(run, TOKEN_BYTES)
    work = run["work"]["1320"]["pre_infer_ms"]
    # At work a production takes a little longer than alone.
    assert 1.0 < measured.true.extend_ns(1320, 0) / (work * 1e6) < 1.2
    probe = next(one for one in run["probes"] if one["purpose"] == "length" and one["mode"] == "full")
    median_ms = probe["stages_ms"]["FULL"]["compute"]["p50"]
    assert measured.true.full_ns(256, 0, probe["tokens"]) / 1e6 == pytest.approx(median_ms, rel=0.01)


def test_latencies_and_rates_of_compared_probes_are_no_input(run):
    changed = json.loads(json.dumps(run))
    for probe in changed["probes"]:
        if is_compared(probe):
            probe["rank_ms"] = {name: 10 * value for name, value in probe["rank_ms"].items()}
            probe["late"], probe["tiers"] = 999, {}
    for search in changed["searches"]:
        search["value"] = search["crossing"] = 1.0
    assert measured_of(changed, TOKEN_BYTES) == measured_of(run, TOKEN_BYTES)


def test_a_run_without_a_length_search_is_refused_with_what_it_lacks(run):
    short = {**run, "probes": [probe for probe in run["probes"] if probe["purpose"] != "length"]}
    with pytest.raises(Unmeasured, match="length search of full"):
        measured_of(short, TOKEN_BYTES)


@pytest.mark.parametrize(("mode", "rate_hz"), (("full", 13.76), ("relay_dram", 48.11)))
def test_a_probe_is_predicted_near_what_was_measured(run, machine, mode, rate_hz):
    probe = next(one for one in run["probes"] if one["mode"] == mode and one["rate_hz"] == rate_hz)
    found = machine.run(mode, probe["tokens"], rate_hz, machine.profile.traffic, probe["seed"], 1)
    assert len(found.ranks_ms) == probe["requests"]
    assert found.quantile_ms(0.99) == pytest.approx(probe["rank_ms"]["p99"], rel=0.25)
    assert found.tiers["DRAM"] / 1000 == pytest.approx(probe["tiers"].get("DRAM", 0) / 1000, abs=0.05)


def test_without_the_machines_other_work_hardly_a_rank_waits_for_psi(run):
    probe = next(one for one in run["probes"] if one["mode"] == "relay_dram" and one["rate_hz"] == 52.92)
    joined = {}
    for share in (0.0, 1.0):
        machine = Machine(run)
        host = {
            mode: HostWork(share * each.background, share * each.request_ns)
            for mode, each in machine.measured.host.items()
        }
        machine.measured = replace(machine.measured, host=host)
        traffic = machine.profile.traffic
        joined[share] = machine.run("relay_dram", probe["tokens"], 52.92, traffic, probe["seed"], 1).tiers["JOINED"]
    assert joined[0.0] < 0.5 * probe["tiers"]["JOINED"] < joined[1.0]


def test_prediction_and_measurement_stand_side_by_side(run):
    searches = [one for one in run["searches"] if one["mode"] == "relay_dram" and one["purpose"] == "search_l0"]
    kept = [one for one in run["probes"] if one["purpose"] == "length" or one["rate_hz"] in (13.76, 48.11)]
    found = fidelity({**run, "searches": searches, "probes": kept})
    assert found["throughput_err"] <= 0.15 and found["p99_err"] <= 0.25
    text = table({"report": "r", **found})
    assert "| `full` | 1320 | 13.76 |" in text and "`relay_dram`" in text


def test_the_newest_report_is_the_one_with_the_latest_date(tmp_path):
    for name in ("load_b_2026-01-02", "load_a_2026-03-01_ffff", "load_a_2026-03-01", "load_c_2025-12-31", "load_d"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("{}")
    found = newest_report(tmp_path)
    assert found is not None and found.name == "load_a_2026-03-01"
