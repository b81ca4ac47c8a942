"""The router and etcd: outages, elections, slot tables, pins, and the start."""

from __future__ import annotations

import asyncio
import json
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from relaygr.domain.slots import SLOTS
from relaygr.registry import keys
from relaygr.registry.server import EmbeddedEtcd
from relaygr.v1 import router_pb2
from services.router.core.slots import SlotTable
from tests.contract.router_world import World, failing, router_world, until
from tests.unit.router.fleet import MODEL


@pytest.fixture
async def world(tmp_path):
    async with router_world(tmp_path / "etcd", "a", "b") as made:
        yield made


async def test_requests_go_on_while_etcd_is_gone(world):
    world.etcd.kill()
    end_s = time.monotonic() + 2.5  # Longer than the rankers' leases live.
    answered = 0
    while time.monotonic() < end_s:
        user = str(answered)
        ranker = world.rankers[(await world.resolve(user)).instance_id]
        await world.pre_infer(world.ticket(ranker, user))
        assert (await world.rank(user, world.ticket(ranker, user))).rank.instance_id == ranker.name
        answered += 1
    assert answered > 100
    # A loss is still noticed, by the calls themselves.
    await world.rankers["a"].kill()
    for user in map(str, range(10)):
        assert (await world.rank(user)).rank.instance_id == "b"


async def test_an_etcd_that_comes_back_empty_costs_no_rank(world, tmp_path):
    for ranker in world.rankers.values():
        await ranker.registration.closed()  # So that they stay away for a while.
    world.etcd.kill()
    world.etcd.restart(tmp_path / "empty")
    members = world.router.core.members
    end_s = time.monotonic() + 4
    while time.monotonic() < end_s and members.deadline_ns() is None:
        assert (await world.rank()).attempts == 1
        await asyncio.sleep(0.01)
    assert members.deadline_ns() is not None  # Both losses are doubted.
    await until(lambda: not world.router._probes._tasks)
    assert len(members) == 2
    assert (await world.rank()).attempts == 1
    for ranker in world.rankers.values():
        ranker.register()
    await until(lambda: members.deadline_ns() is None)
    await world.knows("a", "b")


async def test_a_great_loss_that_is_real_is_believed_once_health_checks_agree(world):
    for ranker in world.rankers.values():
        await ranker.kill()
        await ranker.registration.withdraw()
    await world.knows()


async def test_a_paused_etcd_is_noticed_and_costs_no_rank(world):
    watch = world.router.discovery.instances
    world.etcd.pause()
    began = time.monotonic()
    while watch.age_ns(time.monotonic_ns()) < 2_000_000_000:
        assert time.monotonic() - began < 6
        await world.rank()
    world.etcd.resume()
    await until(lambda: watch.age_ns(time.monotonic_ns()) < 1_500_000_000)


async def test_the_elected_router_writes_a_table_and_moves_little_when_one_joins(world):
    key = keys.slots_key(MODEL.key)
    await until(lambda: world.router.core.table(MODEL.key) is not None)
    before = SlotTable.from_json(await world.registry.get(key))
    await world.add_rankers("c")
    await until(lambda: "c" in world.router.core.table(MODEL.key).owners)
    after = world.router.core.table(MODEL.key)
    changed = [slot for slot in range(SLOTS) if before.owners[slot] != after.owners[slot]]
    assert len(changed) <= SLOTS // 3
    assert {after.owners[slot] for slot in changed} == {"c"}
    assert after.version == before.version + 1


async def test_a_table_that_is_not_one_is_replaced(world):
    await until(lambda: world.router.core.table(MODEL.key) is not None)
    await world.registry.put(keys.slots_key(MODEL.key), "nonsense")
    async with asyncio.timeout(10):
        while await world.registry.get(keys.slots_key(MODEL.key)) == b"nonsense":
            assert (await world.resolve()).branch == router_pb2.BRANCH_SLOT
            await asyncio.sleep(0.05)


async def test_two_routers_agree_on_places_and_one_takes_over_from_the_other(world):
    second, stub = await world.add_router()
    await world.knows("a", "b", router=second)
    await until(lambda: second.core.table(MODEL.key) is not None)
    for user in map(str, range(30)):
        assert (await world.resolve(user)).instance_id == (await world.resolve(user, stub)).instance_id
    await until(lambda: world.router.planner.is_elected)
    assert not second.planner.is_elected
    await world.router.leave()
    await until(lambda: second.planner.is_elected)
    await world.add_rankers("c")
    await until(lambda: "c" in second.core.table(MODEL.key).owners)


async def test_a_spilled_user_is_found_by_the_other_router(world):
    second, stub = await world.add_router()
    await world.knows("a", "b", router=second)
    await until(lambda: world.router.core.table(MODEL.key) and second.core.table(MODEL.key))
    user = world.user_of_slot_owner("a")
    world.rankers["a"].backlog_ns = 30_000_000_000
    await world.rank("other", world.ticket(world.rankers["a"], "other"))
    spilled = await world.resolve(user, will_admit=True, window_ns=5_000_000_000)
    assert (spilled.instance_id, spilled.branch) == ("b", router_pb2.BRANCH_SPILL)
    await until(lambda: len(second.core.pins) == 1)
    found = await world.resolve(user, stub)
    assert (found.instance_id, found.branch) == ("b", router_pb2.BRANCH_PIN)
    (stored,) = (await world.registry.get_prefix(keys.PINS_PREFIX)).items
    assert user not in stored[0]
    assert user not in stored[1].decode()
    await world.forget(user)
    await until(lambda: len(second.core.pins) == 0)
    assert (await world.registry.get_prefix(keys.PINS_PREFIX)).items == ()


async def test_values_that_are_not_instances_are_ignored(world):
    record = world.rankers["a"].record
    for key, value in [
        (keys.instance_key("x"), "{"),
        (keys.instance_key("y"), record.to_json()),
        (keys.instance_key("z"), json.dumps({"instance_id": "z"})),
        (keys.pin_key("p"), "[1]"),
        (keys.slots_key("m"), "{}"),
    ]:
        await world.registry.put(key, value)
    await world.add_rankers("c")
    await world.knows("a", "b", "c")


async def test_triggers_are_counted(world):
    for name in ("t1", "t2", "t3"):
        world.registry.keep_registered(keys.trigger_key(name), lambda: "{}", 2)
    await until(lambda: world.router.discovery.trigger_count == 3)
    assert (await world.resolve()).trigger_count == 3


async def serving(world):
    stub = health_pb2_grpc.HealthStub(world.pool.get(world.router.address))
    answer = await stub.Check(health_pb2.HealthCheckRequest(service="relaygr.v1.RouterService"), timeout=5)
    return answer.status == health_pb2.HealthCheckResponse.SERVING


async def until_serving(world):
    async with asyncio.timeout(10):
        while not await serving(world):  # noqa: ASYNC110 - what is asked is another server
            await asyncio.sleep(0.02)


async def test_a_router_without_instances_says_so_and_serves_as_soon_as_one_comes(tmp_path):
    with EmbeddedEtcd() as etcd:
        etcd.start(tmp_path / "etcd")
        world = World(etcd)
        try:
            await world.add_router(start_wait_s=30)
            error = await failing(world.resolve())
            assert (error.code(), "no ranker is known" in error.details()) == (grpc.StatusCode.UNAVAILABLE, True)
            assert (await failing(world.rank())).code() is grpc.StatusCode.UNAVAILABLE
            assert not await serving(world)
            await world.add_rankers("a")
            await until_serving(world)
            assert (await world.resolve()).instance_id == "a"
        finally:
            await world.close()


async def test_a_router_without_etcd_serves_after_its_wait(tmp_path):
    etcd = EmbeddedEtcd()
    etcd.start(tmp_path / "etcd")
    etcd.kill()
    world = World(etcd)
    try:
        await world.add_router(start_wait_s=0.2)
        await until_serving(world)
        assert (await failing(world.resolve())).code() is grpc.StatusCode.UNAVAILABLE
    finally:
        await world.close()
