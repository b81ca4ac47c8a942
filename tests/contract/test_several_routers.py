"""With several routers the next one is called once one is lost: by clients, and by the trigger."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager

from relaygr.client import RelayClient
from relaygr.rpc.server import RpcServer
from relaygr.telemetry import names
from relaygr.testing.fake_router import FakeRouter
from relaygr.v1.router_pb2_grpc import add_RouterServiceServicer_to_server
from relaygr.v1.trigger_pb2 import Decision
from tests.chaos.proxy import Harm, Proxy
from tests.contract.test_client_relay import HISTORY
from tests.contract.test_client_relay import running as client_running
from tests.contract.test_trigger_service import running as trigger_running
from tests.system.world import until

NOBODY = "127.0.0.1:1"


async def test_a_rank_goes_to_the_next_router_when_the_first_is_not_there():
    async with client_running() as rig:
        trigger, router = rig.addresses
        async with RelayClient(trigger, f"{NOBODY},{router}", telemetry=rig.telemetry, arrive_timeout_ms=2e3) as client:
            relay = await client.arrive(user="u", behaviours=HISTORY)
            assert (await relay.rank([1, 2, 3])).tier == "DEVICE"
            assert len(rig.router.ranks) == 1


async def test_a_client_stays_with_the_router_that_answers():
    async with client_running() as rig:
        trigger, router = rig.addresses
        async with RelayClient(trigger, f"{NOBODY},{router}", telemetry=rig.telemetry, arrive_timeout_ms=2e3) as client:
            for _ in range(3):
                relay = await client.arrive(user="u", behaviours=HISTORY)
                await relay.rank([1])
        failed = [span for span in rig.spans.get_finished_spans() if span.attributes.get(names.ATTR_ERROR_TYPE)]
        assert len(failed) == 1


async def test_a_router_that_is_lost_midway_is_left_for_the_next():
    async with client_running() as rig:
        trigger, router = rig.addresses
        other, fake = RpcServer(service_name="o", address="127.0.0.1:0", telemetry=rig.telemetry), FakeRouter()
        other.add(add_RouterServiceServicer_to_server, fake, "relaygr.v1.RouterService")
        addresses = f"{router},127.0.0.1:{await other.start()}"
        try:
            async with RelayClient(trigger, addresses, telemetry=rig.telemetry, arrive_timeout_ms=2e3) as client:
                relay = await client.arrive(user="u", behaviours=HISTORY)
                await relay.rank([1])
                await rig.router_server.stop(0)
                relay = await client.arrive(user="u", behaviours=HISTORY)
                await relay.rank([1])
            assert (len(rig.router.ranks), len(fake.ranks)) == (1, 1)
        finally:
            await other.stop(0)


async def test_the_trigger_admits_again_with_the_next_router():
    async with trigger_running() as rig:
        routers = rig.service._router._routers
        routers._addresses = (NOBODY, routers.current)
        decisions = [(await rig.arrive()).decision for _ in range(3)]
        assert decisions[-1] == Decision.DECISION_ADMITTED
        assert decisions[0] != Decision.DECISION_ADMITTED


@contextmanager
def silenced(*addresses):
    """Ways to these that carry all until `cut` is called, and nothing afterwards."""
    proxy = Proxy(1, {})
    names = [str(number) for number in range(len(addresses))]

    def cut():
        for name in names:
            proxy.set("client", name, Harm(is_cut=True))

    try:
        yield [proxy.reach("client", *each) for each in zip(names, addresses, strict=True)], cut
    finally:
        proxy.close()


async def test_a_rank_at_a_router_that_falls_silent_is_the_next_ones_within_its_deadline():
    async with client_running() as rig, other_router(rig) as (address, fake):
        trigger, router = rig.addresses
        with silenced(router) as ([way], cut):
            async with RelayClient(
                trigger, f"{way},{address}", telemetry=rig.telemetry, arrive_timeout_ms=2e3
            ) as client:
                await (await client.arrive(user="u", behaviours=HISTORY)).rank([1], deadline_ms=4e3)
                cut()
                for _ in range(3):
                    await (await client.arrive(user="u", behaviours=HISTORY)).rank([1], deadline_ms=1e3)
                assert (len(rig.router.ranks), len(fake.ranks)) == (1, 3)
                assert client._calls._routers.current == address


async def test_a_router_that_is_only_busy_is_waited_for():
    async with client_running() as rig, other_router(rig) as (address, fake):
        trigger, router = rig.addresses
        rig.router.rank_delay_s = 1.4
        addresses = f"{router},{address}"
        async with RelayClient(trigger, addresses, telemetry=rig.telemetry, arrive_timeout_ms=2e3) as client:
            await (await client.arrive(user="u", behaviours=HISTORY)).rank([1], deadline_ms=2e3)
        assert (len(rig.router.ranks), len(fake.ranks)) == (1, 0)


async def test_a_trigger_that_falls_silent_is_left_for_the_next():
    async with client_running() as rig:
        trigger, router = rig.addresses
        with silenced(trigger) as ([way], cut):
            cut()
            async with RelayClient(f"{way},{trigger}", router, telemetry=rig.telemetry) as client:
                relay = await client.arrive(user="u", behaviours=HISTORY)
                assert relay.decision == "UNKNOWN"
                await relay.release()

                async def is_left():
                    return client._calls._triggers.current == trigger

                await until(is_left, "the silent trigger is left")


@asynccontextmanager
async def other_router(rig):
    other, fake = RpcServer(service_name="o", address="127.0.0.1:0", telemetry=rig.telemetry), FakeRouter()
    other.add(add_RouterServiceServicer_to_server, fake, "relaygr.v1.RouterService")
    try:
        yield f"127.0.0.1:{await other.start()}", fake
    finally:
        await other.stop(0)
