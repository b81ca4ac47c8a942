"""One project of docker compose from this repository's files: its ports, its images, its health, its end.

For `make compose-smoke` and `make compose-test`. Everything runs under a name and on ports of its own, so that it
disturbs no deployment on the same machine.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from demo.cluster import free_addresses

ROOT = Path(__file__).resolve().parent.parent
BASE = "docker-compose.yml"
OVERLAYS = ("docker-compose.observability.yml", "docker-compose.rankers.yml", "docker-compose.load.yml")
STANDINS = {"etcd": "etcd-standin", "prometheus": "prometheus-standin"}
"""By service: folder in ops/compose of what can be built where no image can be pulled."""
PORTS = ("TRIGGER_PORT", "ROUTER_PORT", "ROUTER_2_PORT", "CONSOLE_PORT", "OTLP_PORT")
HEALTHY_TIMEOUT_S = 300.0
DOWN_GRACE_S = 10
_POLL_S = 0.25


class ComposeFailed(Exception):
    """Docker or docker compose did not do what it was told; the message ends with its own words."""


class NoEngine(Exception):
    """There is no container engine, or no docker compose."""


def run(*command: str, env: Mapping[str, str] | None = None, timeout_s: float = 120.0) -> str:
    """Run a command in the repository, without input; its output.

    Raises:
        ComposeFailed: it failed, or took too long.
    """
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise ComposeFailed(f"{' '.join(command)}\nnot done after {timeout_s:g} s") from None
    if done.returncode:
        raise ComposeFailed(f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def compose_command() -> tuple[str, ...]:
    """`docker compose`, or docker-compose where that is what there is.

    Raises:
        NoEngine: neither, or no engine that answers.
    """
    try:
        run("docker", "info")
    except (OSError, ComposeFailed):
        raise NoEngine("no container engine answers `docker info`") from None
    for command in (("docker", "compose"), ("docker-compose",)):
        with contextlib.suppress(OSError, ComposeFailed):
            run(*command, "version")
            return command
    raise NoEngine("neither `docker compose` nor docker-compose is there")


class ComposeProject:
    """A project of one name.

    Args:
        name: of the project.
        images: tag of the images that it builds.
        settings: more of what .env would say.
        files: compose files, the later over the earlier.
    """

    def __init__(
        self, name: str, *, images: str, settings: Mapping[str, str] | None = None, files: Sequence[str] = (BASE,)
    ) -> None:
        self._command = compose_command()
        self._name = name
        self._files = tuple(files)
        self.addresses = dict(zip(PORTS, free_addresses(len(PORTS)), strict=True))
        self.env = {
            **os.environ,
            "TICKET_KEY": secrets.token_hex(32),
            **{port: address.rpartition(":")[2] for port, address in self.addresses.items()},
            "RELAYGR_IMAGE": f"relaygr:{images}",
            "RANKER_IMAGE": f"relaygr-ranker:{images}",
            **(settings or {}),
        }

    def __call__(self, *arguments: str, timeout_s: float = 120.0, files: Sequence[str] = ()) -> str:
        """Run one command of docker compose; its output."""
        named = itertools.chain.from_iterable(("-f", name) for name in files or self._files)
        return run(*self._command, "-p", self._name, *named, *arguments, env=self.env, timeout_s=timeout_s)

    def config(self, files: Sequence[str] = ()) -> dict[str, Any]:
        """What docker compose makes of the files."""
        read: dict[str, Any] = yaml.safe_load(self("config", files=files))
        return read

    def build(self) -> None:
        """Build our images, and have those of others."""
        self("build", timeout_s=1800.0)
        for name, service in self.config()["services"].items():
            if name in STANDINS:
                have_image(service["image"], STANDINS[name])

    def up(self) -> None:
        """Start everything, and wait until what is asked for its health is well."""
        self("up", "-d", timeout_s=900.0)
        waiting = [name for name, one in self.config()["services"].items() if one.get("healthcheck", {}).get("test")]
        deadline_s = time.monotonic() + HEALTHY_TIMEOUT_S
        while waiting := [name for name in waiting if self.facts(name)["Health"] != "healthy"]:
            if time.monotonic() > deadline_s:
                raise ComposeFailed(f"not healthy: {', '.join(waiting)}\n{self.logs()}")
            time.sleep(_POLL_S)

    def facts(self, service: str) -> dict[str, Any]:
        """Of a service's container: Health, User, ReadonlyRootfs, CapDrop."""
        form = (
            '{"Health": {{json .State.Health.Status}}, "User": {{json .Config.User}}, '
            '"ReadonlyRootfs": {{json .HostConfig.ReadonlyRootfs}}, "CapDrop": {{json .HostConfig.CapDrop}}}'
        )
        found: dict[str, Any] = json.loads(run("docker", "inspect", "-f", form, self("ps", "-q", service).strip()))
        return found

    def logs(self) -> str:
        """The last lines of everybody."""
        return self("logs", "--no-color", "--tail", "20")[-8000:]

    def down(self) -> None:
        """End and remove everything but images."""
        self("down", "-v", "--timeout", str(DOWN_GRACE_S), timeout_s=180.0)


def have_image(name: str, standin: str) -> None:
    """Have an image: the one that is there, the official one, or a stand-in under its name where none can be pulled."""
    with contextlib.suppress(ComposeFailed):
        run("docker", "image", "inspect", name)
        return
    with contextlib.suppress(ComposeFailed):
        run("docker", "pull", name, timeout_s=180.0)
        return
    run("docker", "build", "-t", name, f"ops/compose/{standin}", timeout_s=600.0)


def stacks() -> list[tuple[str, ...]]:
    """The base with every combination of overlays."""
    return [(BASE, *chosen) for count in range(len(OVERLAYS) + 1) for chosen in itertools.combinations(OVERLAYS, count)]
