"""docker-compose.yml, for real: build the image, bring it up, send a request through. `make compose-smoke`."""

import asyncio
import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from demo.cluster import free_addresses
from relaygr.client import RelayClient

ROOT = Path(__file__).resolve().parent.parent.parent
PROJECT = "relaygr-smoke"
SERVICES = ("etcd", "expander", "router", "trigger", "ranker-1", "ranker-2")
UP_TIMEOUT_S = 900
HEALTHY_TIMEOUT_S = 120.0

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]


def run(*command: str, env: dict[str, str] | None = None, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def compose_command() -> list[str]:
    if not shutil.which("docker") or run("docker", "info").returncode:
        pytest.skip("no container engine answers `docker info`")
    for command in (["docker", "compose"], ["docker-compose"]):
        with contextlib.suppress(FileNotFoundError):
            if run(*command, "version").returncode == 0:
                return command
    pytest.skip("neither `docker compose` nor docker-compose is there")


class Compose:
    """One project of docker compose."""

    def __init__(self):
        self._command = compose_command()
        trigger, router = free_addresses(2)
        self.trigger, self.router = trigger, router
        self.env = os.environ | {
            "TICKET_KEY": secrets.token_hex(32),
            "TRIGGER_PORT": trigger.rpartition(":")[2],
            "ROUTER_PORT": router.rpartition(":")[2],
            "RELAYGR_IMAGE": "relaygr:smoke",
            "TRAIN_MINUTES": "0.1",
            # Every request is at risk.
            "RANK_BUDGET_MS": "0.01",
        }

    def __call__(self, *arguments: str, timeout_s: float = 120.0) -> str:
        done = run(*self._command, "-p", PROJECT, *arguments, env=self.env, timeout_s=timeout_s)
        assert done.returncode == 0, f"{' '.join(arguments)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def image_of_etcd(self) -> str:
        return next(line.split()[-1] for line in self("config").splitlines() if "image:" in line and "etcd" in line)


def have_etcd_image(name: str) -> None:
    """Pull the official image, or build a stand-in of the same name where no registry is reached."""
    if run("docker", "image", "inspect", name).returncode == 0:
        return
    if run("docker", "pull", name, timeout_s=180.0).returncode == 0:
        return
    built = run("docker", "build", "-t", name, "ops/compose/etcd-standin", timeout_s=300.0)
    assert built.returncode == 0, built.stderr[-2000:]


@pytest.fixture(scope="module")
def compose():
    project = Compose()
    have_etcd_image(project.image_of_etcd())
    try:
        project("build", timeout_s=900.0)
        project("up", "-d", timeout_s=UP_TIMEOUT_S)
        wait_until_healthy(project)
        yield project
    finally:
        logs = run(*project._command, "-p", PROJECT, "logs", "--tail", "20", env=project.env)
        sys.stderr.write(logs.stdout[-8000:])  # pytest shows it when a test failed
        project("down", "-v", "--timeout", "10", timeout_s=180.0)


def facts_of(compose: Compose, service: str) -> list[str]:
    form = "{{.State.Health.Status}}|{{.Config.User}}|{{.HostConfig.ReadonlyRootfs}}|{{.HostConfig.CapDrop}}"
    container = compose("ps", "-q", service).strip()
    return run("docker", "inspect", "-f", form, container).stdout.strip().split("|")


def wait_until_healthy(compose: Compose) -> None:
    deadline_s = time.monotonic() + HEALTHY_TIMEOUT_S
    while waited_for := [service for service in SERVICES if facts_of(compose, service)[0] != "healthy"]:
        assert time.monotonic() < deadline_s, f"not healthy: {waited_for}"
        time.sleep(0.5)


async def relay(client: RelayClient, user: int):
    one = await client.arrive(user=user, candidate_count=50)
    async with one:
        with one.stage("retrieval"):
            await asyncio.sleep(0.3)
        return one.decision, await one.rank(range(1, 51), verify=True)


async def test_a_request_goes_through_the_composed_system(compose):
    async with RelayClient(
        compose.trigger, compose.router, arrive_timeout_ms=5000.0, rank_deadline_ms=20_000.0
    ) as client:
        found = [await relay(client, user) for user in (1, 42, 94, 99, 128, 276)]
    assert {ranking.instance_id for _, ranking in found} == {"ranker-1", "ranker-2"}
    assert all(ranking.score_difference <= 1e-5 for _, ranking in found)
    on_psi = [ranking for decision, ranking in found if decision == "ADMITTED" and ranking.tier != "FULL"]
    assert on_psi, [(decision, ranking.tier, ranking.fallback) for decision, ranking in found]


def test_every_service_is_healthy_and_runs_as_nobody_special(compose):
    for service in SERVICES:
        facts = facts_of(compose, service)
        assert facts[0] == "healthy", (service, facts)
        assert facts[-2:] == ["true", "[ALL]"], (service, facts)
        if service != "etcd":
            assert facts[1] == "10001", (service, facts)


def test_only_loopback_ports_are_published(compose):
    ids = compose("ps", "-q").split()
    published = run("docker", "inspect", "-f", "{{json .HostConfig.PortBindings}}", *ids).stdout
    assert '"HostIp":"127.0.0.1"' in published
    assert '"HostIp":""' not in published and "0.0.0.0" not in published


def test_the_rankers_share_memory_with_the_expander(compose):
    for service in ("ranker-1", "expander"):
        assert "relaygr-compose-" in compose("exec", "-T", service, "ls", "/segment")
