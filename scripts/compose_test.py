"""Brings docker-compose.yml up, sends requests through it, checks each one's trace, takes it down; `make compose-test`.

Needs docker and nothing else of the machine. Steps: docker compose takes every combination of overlays, images are
built, the alert rules pass promtool and fire in its tests, the system is healthy in time, requests of both kinds (at
risk and not) are answered, the console has a whole trace of each, light images hold no torch, and every service
emits what ops/telemetry.yaml says and nothing else (requests of every kind are sent for that, inside the network where
rankers and expander can be reached, and a ranker is killed). The last line is one JSON document:

    {"healthy_s", "requests", "answered", "trace_complete", "signals_amiss", "down_s", "image_mb": {image: MB}}

healthy_s is from `docker compose up` until everybody is healthy, six seconds of training included. It fails when
something was not answered, less than 0.99 of the traces are whole, a signal is missing or foreign, or up or down took
too long.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass, field

from relaygr.client import RelayClient
from relaygr.errors import RelayError
from relaygr.telemetry import Telemetry
from scripts.compose_project import ROOT, ComposeFailed, ComposeProject, NoEngine, have_image, run, stacks
from tests.system.signal_matrix import undeclared, unseen
from tests.system.signal_traffic import Target, Traffic, drive, get_json
from trainer.data import AGE_GROUPS, GENDERS, OCCUPATIONS

PROJECT = "relaygr-compose-test"
HEALTHY_S_MAX, DOWN_S_MAX, TRACE_COMPLETE_MIN = 180.0, 15.0, 0.99
LIGHT = ("trigger", "router-1", "router-2", "expander", "console")
AT_ONCE = 4
RETRIEVAL_S = 0.1
USERS = 900
CANDIDATES = 50
BUDGETS_MS = (0.01, 0.0)
"""Every second request is at risk whatever it takes; the others have the trigger's budget."""
TRACES_WAIT_S = 30.0
SETTINGS = {"TRAIN_MINUTES": "0.1", "RANKER_DEVICE_BYTES": str(8 << 20)}
"""Room for a few users' psi on each device, so that others go to DRAM and some are declined."""
LOST = "ranker-2"
SIGNALS_WAIT_S = 120.0
"""Metrics come every five seconds, and a gauge must be read while something is in it."""
_NO_TORCH = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is not None)"


@dataclass
class Result:
    """What the last line says."""

    healthy_s: float = -1.0
    requests: int = 0
    answered: int = 0
    trace_complete: float = 0.0
    signals_amiss: list[str] = field(default_factory=lambda: ["not asked"])
    down_s: float = -1.0
    image_mb: dict[str, int] = field(default_factory=dict)

    def missed(self) -> list[str]:
        """Targets that were not met."""
        targets = {
            f"healthy within {HEALTHY_S_MAX:g} s": 0 <= self.healthy_s < HEALTHY_S_MAX,
            "every request answered": self.answered == self.requests > 0,
            f"{TRACE_COMPLETE_MIN:.0%} of the traces whole": self.trace_complete >= TRACE_COMPLETE_MIN,
            "every signal seen, and no other": not self.signals_amiss,
            f"down within {DOWN_S_MAX:g} s": 0 <= self.down_s < DOWN_S_MAX,
        }
        return [target for target, is_met in targets.items() if not is_met]


def main() -> int:
    """Run it all; 1 when a target was missed, 2 without an engine."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=200, help="how many (200)")
    given = parser.parse_args()
    try:
        project = ComposeProject(PROJECT, images="compose-test", settings=SETTINGS)
    except NoEngine as error:
        print(f"compose-test: {error}; install docker with docker compose, and start it", file=sys.stderr)
        return 2
    # Being told to stop is no reason to leave anything running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    result, failure = Result(requests=given.requests), ""
    try:
        check(project, result)
    except ComposeFailed as error:
        failure = str(error)
    finally:
        take_down(project, result)
    for line in [failure] * bool(failure) + [f"missed: {target}" for target in result.missed()]:
        print(line, file=sys.stderr)
    print(json.dumps(asdict(result)))
    return 1 if failure or result.missed() else 0


def check(project: ComposeProject, result: Result) -> None:
    """All but the end.

    Raises:
        ComposeFailed: a step that is no target failed.
    """
    say(f"docker compose takes {len(stacks())} combinations of files")
    for files in stacks():
        project.config(files)
    # What a run that was killed may have left.
    project.down()
    say("building")
    project.build()
    result.image_mb = {name: megabytes(project.env[name]) for name in ("RELAYGR_IMAGE", "RANKER_IMAGE")}
    result.image_mb = {project.env[name].partition(":")[0]: size for name, size in result.image_mb.items()}
    say(f"images, MB: {result.image_mb}; alert rules")
    check_rules(project)
    begun_s = time.monotonic()
    project.up()
    result.healthy_s = round(time.monotonic() - begun_s, 1)
    say(f"healthy after {result.healthy_s:g} s")
    for service in LIGHT:
        project("exec", "-T", service, "python", "-c", _NO_TORCH)
    trace_ids = asyncio.run(send(project, result.requests))
    result.answered = len(trace_ids)
    say(f"{result.answered} of {result.requests} answered")
    result.trace_complete = round(complete(project, trace_ids) / max(1, result.requests), 4)
    say(f"{result.trace_complete:.1%} of the traces are whole; sending every kind of request")
    drive_inside(project)
    result.signals_amiss = asyncio.run(drive_outside(project))
    say(f"signals missing or foreign: {', '.join(result.signals_amiss) or 'none'}")


def check_rules(project: ComposeProject) -> None:
    """Prometheus takes its configuration, and every alert fires when it should."""
    image = project.config(stacks()[-1])["services"]["prometheus"]["image"]
    have_image(image, "prometheus-standin")
    files = [f"{ROOT / name}:/relaygr/{name}:ro" for name in ("ops/prometheus", "tests/ops/alerts.test.yml")]
    tool = ["docker", "run", "--rm", "--network=none", *(f"--volume={one}" for one in files), "--entrypoint=promtool"]
    run(*tool, image, "check", "config", "/relaygr/ops/prometheus/prometheus.yml")
    run(*tool, image, "test", "rules", "/relaygr/tests/ops/alerts.test.yml")


async def send(project: ComposeProject, count: int) -> list[str]:
    """Send requests as a caller on the host would, with its own spans; the traces of those answered."""
    endpoint = f"http://{project.addresses['OTLP_PORT']}"
    telemetry = Telemetry.setup("relaygr-client", PROJECT, endpoint, os.urandom(16))
    gate, answered = asyncio.Semaphore(AT_ONCE), []
    async with RelayClient(
        project.addresses["TRIGGER_PORT"],
        # The second is asked once the first is lost.
        ",".join(project.addresses[port] for port in ("ROUTER_PORT", "ROUTER_2_PORT")),
        telemetry=telemetry,
        arrive_timeout_ms=5000.0,
        rank_deadline_ms=20_000.0,
    ) as client:

        async def one(number: int) -> None:
            async with gate:
                try:
                    answered.append(await recommend(client, number))
                except RelayError as error:
                    say(f"request {number}: {type(error).__name__}: {error}")

        await asyncio.gather(*(one(number) for number in range(count)))
    await asyncio.to_thread(telemetry.shutdown)
    return answered


async def recommend(client: RelayClient, number: int) -> str:
    """One request; its trace."""
    budget_ms = BUDGETS_MS[number % len(BUDGETS_MS)]
    user = 1 + number * 7 % USERS
    async with await client.arrive(user=user, candidate_count=CANDIDATES, rank_budget_ms=budget_ms) as relay:
        with relay.stage("retrieval"):
            await asyncio.sleep(RETRIEVAL_S)
        await relay.rank(range(1, CANDIDATES + 1))
        return relay.trace_id


def drive_inside(project: ComposeProject) -> None:
    """Requests of every kind, from a container beside the services: rankers and expander are published nowhere."""
    addresses = {
        "trigger": "trigger:7001",
        "router": "router-1:7002",
        "rankers": "ranker-1:7003,ranker-2:7003",
        "expander": "expander:7004",
        "otlp": "http://console:4317",
        "console": "http://console:7080",
        "users": "80",
        # Of the model that the stack trains: groups of age, genders, occupations.
        "user-categorical": ",".join(map(str, (AGE_GROUPS + 1, len(GENDERS), len(OCCUPATIONS)))),
    }
    options = [part for name, value in addresses.items() for part in (f"--{name}", value)]
    where = [f"--network={PROJECT}_default", f"--volume={ROOT / 'tests'}:/app/tests:ro", "--tmpfs=/tmp"]
    driver = ["python", "-m", "tests.system.signal_traffic", *options]
    run("docker", "run", "--rm", "--read-only", *where, project.env["RELAYGR_IMAGE"], *driver, timeout_s=300.0)


async def drive_outside(project: ComposeProject) -> list[str]:
    """A ranker is killed under load; then requests until every signal was seen. What is missing or foreign."""

    async def lose() -> None:
        await asyncio.to_thread(project, "kill", "-s", "SIGKILL", LOST)

    async def regain() -> None:
        await asyncio.to_thread(project, "start", LOST)

    target = Target(
        trigger=project.addresses["TRIGGER_PORT"],
        router=project.addresses["ROUTER_PORT"],
        otlp=f"http://{project.addresses['OTLP_PORT']}",
        users=[str(user) for user in range(1, 81)],
        lose_ranker=lose,
        regain_ranker=regain,
    )
    url = f"http://{project.addresses['CONSOLE_PORT']}/api/signals"

    async def until_all_is_seen(traffic: Traffic) -> None:
        await traffic.rerouted()
        deadline_s = time.monotonic() + SIGNALS_WAIT_S
        while unseen(await asyncio.to_thread(get_json, url)) and time.monotonic() < deadline_s:
            await traffic.burst()

    await drive(target, has_everything=False, then=until_all_is_seen)
    seen = await asyncio.to_thread(get_json, url)
    return unseen(seen) + undeclared(seen)


def complete(project: ComposeProject, trace_ids: list[str]) -> int:
    """How many of the traces the console has whole, once they have come in."""
    waiting: dict[str, str] = dict.fromkeys(trace_ids, "never came")
    deadline_s = time.monotonic() + TRACES_WAIT_S
    while waiting and time.monotonic() < deadline_s:
        waiting = {trace_id: lack for trace_id in waiting if (lack := lacks(project, trace_id))}
        time.sleep(0.5 if waiting else 0.0)
    for trace_id, lack in list(waiting.items())[:5]:
        say(f"trace {trace_id}: {lack}")
    return len(trace_ids) - len(waiting)


def lacks(project: ComposeProject, trace_id: str) -> str:
    """What a trace lacks; empty when it is whole."""
    url = f"http://{project.addresses['CONSOLE_PORT']}/api/requests/{trace_id}"
    try:
        with urllib.request.urlopen(url, timeout=5.0) as answer:
            missing: list[str] = json.load(answer)["request"]["missing"]
    except urllib.error.HTTPError:
        return "never came"
    return ", ".join(missing)


def megabytes(image: str) -> int:
    """Of an image, uncompressed."""
    return round(int(run("docker", "image", "inspect", "-f", "{{.Size}}", image)) / 1e6)


def take_down(project: ComposeProject, result: Result) -> None:
    """End it, whatever happened before; with everybody's last lines when that was a failure."""
    if result.trace_complete < TRACE_COMPLETE_MIN:
        try:
            print(project.logs(), file=sys.stderr)
        except ComposeFailed as error:
            print(error, file=sys.stderr)
    begun_s = time.monotonic()
    try:
        project.down()
        result.down_s = round(time.monotonic() - begun_s, 1)
        say(f"down after {result.down_s:g} s")
    except ComposeFailed as error:
        print(error, file=sys.stderr)


def say(text: str) -> None:
    """One line of progress."""
    print(f"compose-test: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
