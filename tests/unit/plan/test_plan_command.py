"""`relaygr plan` as its caller sees it."""

import json

import pytest

from relaygr.cli import main
from relaygr.domain.identity import ModelIdentity, ModelLimits
from relaygr.domain.instance import InstanceRecord, InstanceState
from relaygr.plan.device import device_of

GOOD = {"--qps": "60", "--length-distribution": "1312", "--cost-model": "cpu-core-zen5", "--reuse": "0.6,2.2,0.7"}


def asked(*flags, **changed):
    options = GOOD | {"--" + name: value for name, value in changed.items()}
    return main(["plan", *flags, "--no-simulate", *(word for option in options.items() for word in option)])


@pytest.mark.parametrize(
    ("option", "value"),
    (
        ("qps", "-1"),
        ("qps", "nan"),
        ("length-distribution", "lognormal:640"),
        ("length-distribution", "nowhere.txt"),
        ("length-distribution", "0"),
        ("slo", "50"),
        ("slo", "50@1.5"),
        ("slo", "1@0.99"),
        ("reuse", "0.99,2,1"),
        ("reuse", "much"),
        ("cost-model", "abacus"),
        ("candidates", "0"),
        ("stages", "-1"),
        ("overhead", "60"),
        ("device-mib", "0"),
        ("dram-mib", "-5"),
        ("plot", "/nowhere/at/all.svg"),
    ),
)
def test_an_option_that_cannot_be_used_is_named(option, value, capsys):
    assert asked(**{option: value}) == 2
    error = capsys.readouterr().err
    assert f"--{option}" in error or (option, value) == ("slo", "1@0.99")
    assert error.count("\n") == 1


def test_a_plan_is_a_table_that_says_what_gives_way_first(capsys):
    assert asked() == 0
    text = capsys.readouterr().out
    assert "2 instances on 1 hosts" in text and "What gives way first:" in text


def test_a_plan_is_json_where_asked_for(capsys):
    assert asked("--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["plan"]["instances"] == 2 and document["simulated"] is None


def test_a_published_figure_is_labelled_as_one(capsys):
    assert asked(**{"cost-model": "h100-sxm"}) == 0
    text = capsys.readouterr().out
    assert "published figure, not measured here" in text and "datasheet" in text


def test_a_record_as_it_stands_in_etcd_is_a_cost_model(tmp_path, capsys):
    example = device_of("cpu-core-zen5")
    record = InstanceRecord(
        instance_id="ranker-1",
        address="127.0.0.1:1",
        host="here",
        epoch=1,
        model=ModelIdentity("m", "1", "0" * 64, "bfloat16", "p128", 1024),
        limits=ModelLimits(4096, 1024, 512, 2048),
        cost=example.cost,
        device_budget_bytes=example.device_bytes,
        pre_infer_share=0.7,
        state=InstanceState.READY,
    )
    (tmp_path / "record.json").write_text(record.to_json())
    assert asked(**{"cost-model": str(tmp_path / "record.json"), "dram-mib": "1024"}) == 0
    assert "2 instances" in capsys.readouterr().out


def test_lengths_come_from_a_file(tmp_path, capsys):
    (tmp_path / "lengths").write_text("\n".join(["1312"] * 9))
    assert asked(**{"length-distribution": str(tmp_path / "lengths")}) == 0
    assert "2 instances" in capsys.readouterr().out


def test_a_cost_model_that_lacks_a_field_is_told_which(tmp_path, capsys):
    (tmp_path / "cost.json").write_text('{"fixed_ns": 1}')
    assert asked(**{"cost-model": str(tmp_path / "cost.json")}) == 2
    assert "lacks token_ns" in capsys.readouterr().err
