"""The overlay that gives the services certificates, and the health check that shows one."""

from __future__ import annotations

import asyncio

import pytest

from relaygr.client.commands.ca import PARTIES
from relaygr.config import load
from relaygr.security.identity import Role
from services.expander.config import ExpanderConfig
from services.ranker.config import RankerConfig
from services.router.config import RouterConfig
from services.trigger.config import TriggerConfig
from tests.contract.security_world import NEEDS_OPENSSL, parties, served
from tests.ops.composed import BASE, ROOT, stacked
from tests.ops.test_compose_files import OURS

__all__ = ["parties", "served"]

OVERLAY = "ops/compose/tls.yml"
BEFORE, WHOLE = stacked((BASE,)), stacked((BASE, OVERLAY))
CONFIGS = {"trigger": TriggerConfig, "router": RouterConfig, "ranker": RankerConfig, "expander": ExpanderConfig}
SERVERS = [name for name, one in BEFORE["services"].items() if str(one.get("command")).find("'services.") > 0]


def role_of(name):
    return name.partition("-")[0]


def config_of(stack, name):
    environment = {key: str(value) for key, value in stack["services"][name]["environment"].items()}
    return load(CONFIGS[role_of(name)], f"RELAYGR_{role_of(name).upper()}", environment)


@pytest.mark.parametrize("name", SERVERS)
def test_plain_text_among_the_containers_is_asked_for(name):
    assert config_of(BEFORE, name).insecure


@pytest.mark.parametrize("name", SERVERS)
def test_each_service_shows_a_certificate_of_its_own_that_the_job_makes(name):
    config, role = config_of(WHOLE, name), role_of(name)
    assert not config.insecure
    paths = (config.tls_certificate, config.tls_key, config.tls_ca)
    assert paths == (f"/tls/{role}/{name}.pem", f"/tls/{role}/{name}.key", f"/tls/{role}/ca.pem")
    assert f"{role}/{name}" in PARTIES
    assert WHOLE["services"][name]["healthcheck"]["test"][-3:] == list(paths)
    assert WHOLE["services"][name]["depends_on"]["certificates"] == {"condition": "service_completed_successfully"}


def test_no_service_sees_the_keys_of_another_role_or_the_authoritys():
    for name, one in WHOLE["services"].items():
        mounted = {volume for volume in one.get("volumes", ()) if volume.startswith("tls-")}
        if name != "certificates":
            assert mounted == ({f"tls-{role_of(name)}:/tls/{role_of(name)}:ro"} if name in SERVERS else set())


def test_the_job_is_confined_as_the_others_are_and_has_a_volume_for_each_role():
    job = WHOLE["services"]["certificates"]
    assert job["read_only"] and job["cap_drop"] == ["ALL"] and job["security_opt"] == ["no-new-privileges:true"]
    assert job["restart"] == "no" and OURS.fullmatch(job["image"]) and job["pids_limit"] and job["mem_limit"]
    folders = {volume.partition(":")[2] for volume in job["volumes"]}
    assert folders == {f"/tls/{name}" for name in ("authority", *Role)}
    assert {volume.partition(":")[0] for volume in job["volumes"]} <= set(WHOLE["volumes"])
    made = (ROOT / "ops/docker/Dockerfile").read_text()
    # A volume takes over the owner of the folder that it is mounted on.
    assert all(f"{folder} " in made for folder in folders)


async def asked(*arguments):
    process = await asyncio.create_subprocess_exec(
        "python3", "-IS", "ops/docker/healthcheck.py", *map(str, arguments), cwd=ROOT
    )
    return await process.wait()


@NEEDS_OPENSSL
async def test_the_health_check_shows_the_services_own_certificate(parties, served):
    paths = parties.of(Role.ROUTER)
    files = paths.certificate, paths.key, paths.authority
    assert await asked(served.address, *files) == 0
    assert await asked(served.address) == 1
    served.server.set_serving(False)
    assert await asked(served.address, *files) == 1


@NEEDS_OPENSSL
async def test_the_health_check_is_not_content_with_somebody_else(parties, served):
    mine, other = parties.of(Role.ROUTER), parties.stranger.certificate
    assert await asked(served.address, mine.certificate, mine.key, other) == 1
