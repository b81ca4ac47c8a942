"""docker-compose.yml, for real: build the images, bring it up, send a request through. `make compose-smoke`."""

import asyncio
import json
import sys

import pytest

from relaygr.client import RelayClient
from scripts.compose_project import ComposeProject, NoEngine, run

PROJECT = "relaygr-smoke"
SERVICES = ("etcd", "expander", "router-1", "router-2", "trigger", "ranker-1", "ranker-2", "console")
SETTINGS = {
    "TRAIN_MINUTES": "0.1",
    # Every request is at risk.
    "RANK_BUDGET_MS": "0.01",
}

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def compose():
    try:
        project = ComposeProject(PROJECT, images="smoke", settings=SETTINGS)
    except NoEngine as error:
        pytest.skip(str(error))
    try:
        project.build()
        project.up()
        yield project
    finally:
        sys.stderr.write(project.logs())  # pytest shows it when a test failed
        project.down()


async def relay(client: RelayClient, user: int):
    one = await client.arrive(user=user, candidate_count=50)
    async with one:
        with one.stage("retrieval"):
            await asyncio.sleep(0.3)
        return one.decision, await one.rank(range(1, 51), verify=True)


@pytest.mark.parametrize("router", ["ROUTER_PORT", "ROUTER_2_PORT"])
async def test_a_request_goes_through_the_composed_system_by_either_router(compose, router):
    async with RelayClient(
        compose.addresses["TRIGGER_PORT"],
        compose.addresses[router],
        arrive_timeout_ms=5000.0,
        rank_deadline_ms=20_000.0,
    ) as client:
        found = [await relay(client, user) for user in (1, 42, 94, 99, 128, 276)]
    assert {ranking.instance_id for _, ranking in found} == {"ranker-1", "ranker-2"}
    assert all(ranking.score_difference <= 1e-5 for _, ranking in found)
    on_psi = [ranking for decision, ranking in found if decision == "ADMITTED" and ranking.tier != "FULL"]
    assert on_psi, [(decision, ranking.tier, ranking.fallback) for decision, ranking in found]


def test_every_service_is_healthy_and_runs_as_nobody_special(compose):
    for service in SERVICES:
        facts = compose.facts(service)
        assert facts["Health"] == "healthy", (service, facts)
        assert facts["ReadonlyRootfs"] is True and facts["CapDrop"] == ["ALL"], (service, facts)
        if service != "etcd":
            assert facts["User"] == "10001", (service, facts)


def test_only_loopback_ports_are_published(compose):
    ids = compose("ps", "-q").split()
    bound = [
        json.loads(line) or {}
        for line in run("docker", "inspect", "-f", "{{json .HostConfig.PortBindings}}", *ids).splitlines()
    ]
    hosts = [one["HostIp"] for ports in bound for places in ports.values() for one in places]
    assert len(hosts) == 5 and set(hosts) == {"127.0.0.1"}


def test_the_rankers_share_memory_with_the_expander(compose):
    for service in ("ranker-1", "expander"):
        assert "relaygr-compose-" in compose("exec", "-T", service, "ls", "/segment")


def test_images_hold_what_their_services_need_and_no_more(compose):
    for service in ("trigger", "router-1", "expander", "console"):
        there = compose(
            "exec", "-T", service, "python", "-c", "import importlib.util as u; print(u.find_spec('torch'))"
        )
        assert there.strip() == "None", service
        assert "model" not in compose("exec", "-T", service, "ls", "/app/relaygr").split()
    assert "console" not in compose("exec", "-T", "ranker-1", "ls", "/app").split()
