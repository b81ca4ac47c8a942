"""What is done to a cluster: one block for each kind, whole again when it ends.

Processes are started on the event loop's own thread, which is the main one: the kernel ends a process together with the
thread that started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace

import grpc

from relaygr.registry import Registry
from relaygr.registry.keys import INSTANCES_PREFIX, instance_key, router_key, trigger_key
from relaygr.v1 import ranker_pb2, ranker_pb2_grpc
from tests.chaos.ground import VERSIONS
from tests.chaos.limits import no_file_grows
from tests.chaos.proxy import WHOLE, Harm
from tests.chaos.scenario import Kind, Scenario
from tests.chaos.stage import SHARED, Stage

READY_S, GONE_S, SETTLED_S = 30.0, 15.0, 20.0
SLOW_STOPPED_S, SLOW_RUNNING_S = 0.08, 0.02
"""A fifth of the processor's time is left."""


def fault(stage: Stage, scenario: Scenario) -> AbstractAsyncContextManager[None]:
    """The harm of a scenario: done when the block is entered, undone when it ends."""
    return _FAULTS[scenario.kind](stage, scenario)


@asynccontextmanager
async def _killed(stage: Stage, scenario: Scenario) -> AsyncIterator[None]:
    for name in scenario.on:
        stage.cluster.kill(name)
    yield
    for name in scenario.on:
        stage.cluster.supervisor.restart(name)
    await _ready(stage, *scenario.on)


@asynccontextmanager
async def _stopped(stage: Stage, scenario: Scenario) -> AsyncIterator[None]:
    for name in scenario.on:
        stage.cluster.supervisor.pause(name)
    yield
    for name in scenario.on:
        stage.cluster.supervisor.resume(name)


@asynccontextmanager
async def _slowed(stage: Stage, scenario: Scenario) -> AsyncIterator[None]:
    async def beat() -> None:
        supervisor = stage.cluster.supervisor
        while True:
            for name in scenario.on:
                supervisor.pause(name)
            await asyncio.sleep(SLOW_STOPPED_S)
            for name in scenario.on:
                supervisor.resume(name)
            await asyncio.sleep(SLOW_RUNNING_S)

    beating = asyncio.create_task(beat())
    yield
    beating.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await beating
    for name in scenario.on:
        stage.cluster.supervisor.resume(name)


@asynccontextmanager
async def _reconfigured(stage: Stage, scenario: Scenario) -> AsyncIterator[None]:
    for name in scenario.on:
        await _restarted(stage, name, scenario.settings)
    yield
    for name in scenario.on:
        await _restarted(stage, name, {})


@asynccontextmanager
async def _rolled(stage: Stage, scenario: Scenario) -> AsyncIterator[None]:
    for name in scenario.on:
        await _restarted(stage, name, {})
        await _settled(stage)
    yield


@asynccontextmanager
async def _upgraded(stage: Stage, scenario: Scenario) -> AsyncIterator[None]:
    """One after another, with both versions serving in between for as long as the scenario lasts."""
    following = {"model": str(stage.ground.models[VERSIONS[1]])}
    for name in scenario.on:
        await _restarted(stage, name, following)
        await asyncio.sleep(scenario.lasts_s)
    yield
    for name in scenario.on:
        await _restarted(stage, name, {})


@asynccontextmanager
async def _drained(stage: Stage, scenario: Scenario) -> AsyncIterator[None]:
    for name in scenario.on:
        await _drain(stage, name, undo=False)
    yield
    for name in scenario.on:
        await _drain(stage, name, undo=True)


@asynccontextmanager
async def _revoked(stage: Stage, scenario: Scenario) -> AsyncIterator[None]:
    keys = {"router": router_key("router-1"), "trigger": trigger_key("trigger-1")}
    async with _registry(stage) as registry:
        for name in scenario.on:
            key = keys.get(name, instance_key(name))
            lease = await registry.lease_of(key)
            assert lease, f"{name} is not registered"
            await registry.revoke(lease)
        yield
        for name in scenario.on:
            assert await registry.lease_of(keys.get(name, instance_key(name))), f"{name} has not registered again"


@asynccontextmanager
async def _compacted(stage: Stage, scenario: Scenario) -> AsyncIterator[None]:
    """While callers are cut off from etcd, an instance goes and comes back, and etcd forgets how."""
    callers, moved = scenario.on[:-1], scenario.on[-1]
    _harm(stage, callers, "etcd", Harm(is_reset=True))
    stage.cluster.kill(moved)
    async with _registry(stage) as registry:
        await _until_gone(registry, moved)
        stage.cluster.supervisor.restart(moved)
        await _ready(stage, moved)
        await _until_listed(registry, moved)
        await registry.compact((await registry.get_prefix(INSTANCES_PREFIX)).revision)
    yield
    _harm(stage, callers, "etcd", WHOLE)
    await _settled(stage)


@asynccontextmanager
async def _leaderless(stage: Stage, scenario: Scenario) -> AsyncIterator[None]:
    leader = await _leader(stage)
    stage.cluster.kill(leader)
    yield
    stage.cluster.supervisor.restart(leader)
    await _ready(stage, leader)


@asynccontextmanager
async def _linked(stage: Stage, scenario: Scenario) -> AsyncIterator[None]:
    caller, callee = scenario.on
    _harm(
        stage,
        (caller,),
        callee,
        Harm(
            is_cut=scenario.kind is Kind.CUT,
            is_reset=scenario.kind is Kind.RESET,
            delay_ms=scenario.delay_ms if scenario.kind is Kind.DELAY else 0.0,
        ),
    )
    yield
    _harm(stage, (caller,), callee, WHOLE)


@asynccontextmanager
async def _diskless(stage: Stage, scenario: Scenario) -> AsyncIterator[None]:
    with contextlib.ExitStack() as limits:
        for name in scenario.on:
            limits.enter_context(no_file_grows(stage.cluster.supervisor.pid(name)))
        yield


@asynccontextmanager
async def _roomless(stage: Stage, scenario: Scenario) -> AsyncIterator[None]:
    """More than there is: refused at once and with nothing taken, as when others have filled it."""
    room = os.statvfs(SHARED)
    settings = {"segment_bytes": str(2 * room.f_blocks * room.f_frsize)}
    for name in scenario.on:
        os.kill(stage.cluster.supervisor.pid(name), signal.SIGTERM)
        await _until_ended(stage, name)
        _start(stage, name, settings)
        await _until_ended(stage, name)
    yield
    for name in scenario.on:
        _start(stage, name, {})
        await _ready(stage, name)


_FAULTS: dict[Kind, Callable[[Stage, Scenario], AbstractAsyncContextManager[None]]] = {
    Kind.KILL: _killed,
    Kind.STOP: _stopped,
    Kind.SLOW: _slowed,
    Kind.RECONFIGURE: _reconfigured,
    Kind.ROLL: _rolled,
    Kind.UPGRADE: _upgraded,
    Kind.DRAIN: _drained,
    Kind.REVOKE: _revoked,
    Kind.COMPACT: _compacted,
    Kind.LEADER: _leaderless,
    Kind.CUT: _linked,
    Kind.DELAY: _linked,
    Kind.RESET: _linked,
    Kind.NO_DISK: _diskless,
    Kind.NO_MEMORY: _roomless,
}


def _harm(stage: Stage, callers: tuple[str, ...], callee: str, harm: Harm) -> None:
    assert stage.proxy is not None, "only a proxied stage has links"
    for caller in callers:
        stage.proxy.set(caller, callee, harm)


async def _ready(stage: Stage, *names: str) -> None:
    await asyncio.to_thread(stage.cluster.supervisor.wait_ready, *names, timeout_s=READY_S)


async def _settled(stage: Stage) -> None:
    await asyncio.to_thread(stage.cluster.wait_settled, stage.cluster.ranker_names, SETTLED_S)


async def _restarted(stage: Stage, name: str, settings: Mapping[str, str]) -> None:
    """SIGTERM, wait for the orderly end, start; with settings on top of those of the plan, for this start only."""
    os.kill(stage.cluster.supervisor.pid(name), signal.SIGTERM)
    await _until_ended(stage, name)
    _start(stage, name, settings)
    await _ready(stage, name)


def _start(stage: Stage, name: str, settings: Mapping[str, str]) -> None:
    plain = stage.specs[name]
    service = next(key for key in plain.environment if key.startswith("RELAYGR_")).split("_")[1]
    changed = {f"RELAYGR_{service}_{key.upper()}": value for key, value in settings.items()}
    stage.cluster.supervisor.start(replace(plain, environment={**plain.environment, **changed}))


async def _until_ended(stage: Stage, name: str) -> None:
    async with asyncio.timeout(GONE_S):
        while name not in stage.cluster.supervisor.ended():  # noqa: ASYNC110 - a child is asked, it does not call
            await asyncio.sleep(0.02)


async def _drain(stage: Stage, name: str, *, undo: bool) -> None:
    async with grpc.aio.insecure_channel(stage.cluster.addresses[name]) as channel:
        await ranker_pb2_grpc.RankerServiceStub(channel).Drain(ranker_pb2.DrainRequest(undo=undo), timeout=2.0)


@asynccontextmanager
async def _registry(stage: Stage) -> AsyncIterator[Registry]:
    """Etcd as it is, whatever stands between it and the services."""
    registry = Registry(tuple(stage.cluster.addresses[name] for name in stage.cluster.etcd_names))
    try:
        yield registry
    finally:
        await registry.close()


async def _until_gone(registry: Registry, name: str) -> None:
    async with asyncio.timeout(READY_S):
        while await registry.get(instance_key(name)) is not None:  # noqa: ASYNC110 - etcd tells nobody else
            await asyncio.sleep(0.05)


async def _until_listed(registry: Registry, name: str) -> None:
    async with asyncio.timeout(READY_S):
        while await registry.get(instance_key(name)) is None:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)


async def _leader(stage: Stage) -> str:
    """Name of the etcd member that leads."""
    from relaygr.registry.transport import etcdrpc

    for name in stage.cluster.etcd_names:
        async with grpc.aio.insecure_channel(stage.cluster.addresses[name]) as channel:
            status = await etcdrpc.MaintenanceStub(channel).Status(etcdrpc.StatusRequest(), timeout=2.0)
            if status.header.member_id == status.leader:
                return name
    raise AssertionError("no member of etcd leads")
