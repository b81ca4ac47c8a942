from collections.abc import AsyncIterator

import pytest

from relaygr.errors import Refused
from relaygr.rpc.channel import ChannelPool, channel_options
from relaygr.telemetry import Telemetry
from relaygr.v1.router_pb2_grpc import RouterServiceStub
from relaygr.v1.trigger_pb2_grpc import TriggerServiceStub


@pytest.fixture
async def pool() -> AsyncIterator[ChannelPool]:
    made = ChannelPool(Telemetry.for_tests()[0], channels_max=2)
    yield made
    await made.close()


async def test_one_channel_per_address(pool: ChannelPool) -> None:
    assert pool.get("127.0.0.1:1") is pool.get("127.0.0.1:1")
    assert pool.get("127.0.0.1:1") is not pool.get("127.0.0.1:2")


async def test_pool_is_bounded_and_closing_makes_room(pool: ChannelPool) -> None:
    first = pool.get("127.0.0.1:1")
    pool.get("127.0.0.1:2")
    with pytest.raises(Refused):
        pool.get("127.0.0.1:3")
    await pool.close("127.0.0.1:1")
    await pool.close("127.0.0.1:9")
    assert pool.get("127.0.0.1:1") is not first


def test_silent_peer_is_noticed_within_seconds() -> None:
    options = dict(channel_options())
    assert options["grpc.keepalive_time_ms"] == 10_000
    assert options["grpc.keepalive_timeout_ms"] == options["grpc.http2.ping_timeout_ms"] == 3_000
    assert options["grpc.http2.max_pings_without_data"] == 0, "an idle connection is asked as often as any other"


async def test_a_stub_is_kept_as_long_as_its_channel(pool: ChannelPool) -> None:
    one, other = "127.0.0.1:1", "127.0.0.1:2"
    stub = pool.stub(RouterServiceStub, one)
    assert pool.stub(RouterServiceStub, one) is stub
    assert pool.stub(TriggerServiceStub, one) is not stub
    kept = pool.stub(RouterServiceStub, other)
    await pool.close(one)
    assert pool.stub(RouterServiceStub, one) is not stub
    assert pool.stub(RouterServiceStub, other) is kept
