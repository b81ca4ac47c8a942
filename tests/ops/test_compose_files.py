"""What every service of every stack of compose files is held to."""

import dataclasses
import re

import pytest
import yaml

from relaygr.config import load
from services.expander.config import ExpanderConfig
from services.ranker.config import RankerConfig
from services.router.config import RouterConfig
from services.trigger.config import TriggerConfig
from tests.ops.composed import BASE, OVERLAYS, ROOT, SECRET, STACKS, filled, merged, stacked

EVERYTHING = stacked((BASE, *OVERLAYS))
SERVICES = sorted(EVERYTHING["services"])
JOBS = {"model", "load"}
"""They end; their exit code says how."""
UNASKED = {"otel-collector"}
"""Its image holds nothing that could ask it; Prometheus does."""
ROOTED = {"etcd"}
"""Its image runs as root, and its volume is root's."""
OURS = re.compile(r"relaygr(-ranker)?:local")
SERVERS = [name for name in SERVICES if str(EVERYTHING["services"][name].get("command")).find("'services.") > 0]
CONFIGS = {"TRIGGER": TriggerConfig, "ROUTER": RouterConfig, "RANKER": RankerConfig, "EXPANDER": ExpanderConfig}


def service(name):
    return EVERYTHING["services"][name]


def test_the_files_stack_in_every_combination():
    for files in STACKS:
        found = stacked(files)
        for name, one in found["services"].items():
            assert set(one.get("depends_on", {})) <= set(found["services"]), (files, name)
            named = {volume.partition(":")[0] for volume in one.get("volumes", ()) if not volume.startswith(".")}
            assert named <= set(found["volumes"]), (files, name)


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_is_confined(name):
    one = service(name)
    assert one["read_only"] is True and one["init"] is True
    assert one["cap_drop"] == ["ALL"] and one["security_opt"] == ["no-new-privileges:true"]
    assert one["pids_limit"] and one["mem_limit"] and one["tmpfs"]
    assert not {"privileged", "cap_add", "devices", "pid", "ipc"} & one.keys()
    assert one.get("network_mode", "service:console") == "service:console"


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_runs_as_nobody_special(name):
    one = service(name)
    is_ours = OURS.fullmatch(one["image"]) and "user" not in one
    assert is_ours or name in ROOTED or int(one["user"].partition(":")[0]) > 0


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_is_asked_for_its_health_and_comes_back_or_is_a_job(name):
    one = service(name)
    if name in JOBS:
        assert one["restart"] == "no" and "healthcheck" not in one
        return
    assert one["restart"] == "unless-stopped"
    assert one["healthcheck"] == {"disable": True} if name in UNASKED else one["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_published_on_loopback_only(name):
    for port in service(name).get("ports", ()):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port), port


def test_no_two_services_publish_the_same_port():
    ports = [port.split(":")[1] for one in EVERYTHING["services"].values() for port in one.get("ports", ())]
    assert len(ports) == len(set(ports))


@pytest.mark.parametrize("name", SERVICES)
def test_files_of_this_repository_are_mounted_to_be_read(name):
    for volume in service(name).get("volumes", ()):
        if volume.startswith("./"):
            path, _, mode = volume.removeprefix("./").split(":")
            assert mode == "ro" and (path.startswith(".cache/") or (ROOT / path).exists()), volume


def test_the_segment_is_shared_by_rankers_and_expander_and_nobody_else():
    holders = {name for name in SERVICES if any("segment:" in volume for volume in service(name).get("volumes", ()))}
    assert holders == {"expander", "ranker-1", "ranker-2", "ranker-3", "ranker-4"}


def test_only_rankers_and_the_job_have_the_image_with_torch():
    holders = {name for name in SERVICES if service(name)["image"] == "relaygr-ranker:local"}
    assert holders == {"model", "ranker-1", "ranker-2", "ranker-3", "ranker-4"}


@pytest.mark.parametrize("name", SERVERS)
def test_the_settings_of_each_service_are_known_to_it(name):
    environment = {key: str(value) for key, value in service(name)["environment"].items()}
    kind = service(name)["command"][-1].removeprefix("services.").upper()
    config = load(CONFIGS[kind], f"RELAYGR_{kind}", environment)
    assert all(key.startswith(f"RELAYGR_{kind}_") for key in environment)
    assert config.otlp_endpoint == "http://console:4317"
    if "ticket_key" in {field.name for field in dataclasses.fields(config)}:
        assert config.ticket_key == bytes.fromhex(SECRET)


def test_more_rankers_are_the_first_ones_under_other_names():
    first = yaml.safe_dump(service("ranker-1"))
    for name in ("ranker-2", "ranker-3", "ranker-4"):
        assert yaml.safe_dump(service(name)) == first.replace("ranker-1", name)


def test_images_of_others_have_a_version():
    for name in SERVICES:
        version = service(name)["image"].rpartition(":")[2]
        assert re.search(r"\d+\.\d+\.\d+", version) or OURS.fullmatch(service(name)["image"]), name


def test_the_example_of_settings_says_what_the_files_say():
    lines = [line for line in (ROOT / ".env.example").read_text().splitlines() if line and not line.startswith("#")]
    example = dict(line.split("=", 1) for line in lines)
    del example["TICKET_KEY"], example["PIP_ARGS"]
    assert stacked((BASE, *OVERLAYS), example) == EVERYTHING
    text = "".join((ROOT / name).read_text() for name in (BASE, *OVERLAYS))
    assert all(f"${{{name}:-" in text for name in example), "set and never read"


def test_telemetry_is_switched_off_by_an_empty_endpoint():
    found = stacked((BASE, *OVERLAYS), {"OTLP_ENDPOINT": ""})["services"]
    assert found["ranker-3"]["environment"]["RELAYGR_RANKER_OTLP_ENDPOINT"] == ""
    assert "--otlp=" in found["load"]["command"]


def test_a_variable_that_must_be_set_is_missed():
    with pytest.raises(AssertionError, match=r"see \.env\.example"):
        filled("${TICKET_KEY:?set it in .env, see .env.example}", {"TICKET_KEY": ""})


def test_a_later_file_adds_to_lists_and_replaces_commands():
    below = {"ports": ["1"], "command": ["a", "b"], "environment": {"A": 1, "B": 2}}
    above = {"ports": ["2"], "command": ["c"], "environment": {"B": 3}}
    assert merged(below, above) == {"ports": ["1", "2"], "command": ["c"], "environment": {"A": 1, "B": 3}}
