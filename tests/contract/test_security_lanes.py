"""Lanes under TLS: the same certificates, the same list, looked up at each call; callers know whom they reach."""

from __future__ import annotations

import asyncio
import ssl

import grpc
import pytest

from relaygr.rpc.lane_server import LaneServer
from relaygr.security import guard
from relaygr.security.identity import Role, server_name_of
from relaygr.security.methods import ALLOWED
from relaygr.v1.router_pb2 import RouterServiceRankRequest
from relaygr.v1.router_pb2_grpc import RouterServiceStub
from tests.contract.lane_world import greeting, settled
from tests.contract.security_world import (
    DEPLOYMENT,
    NEEDS_OPENSSL,
    SERVER_NAME,
    SERVER_ROLE,
    asking_for,
    bare_tls,
    methods_of,
    opened,
    parties,
    pool_of,
    served,
    telemetry,
)

__all__ = ["parties", "served", "telemetry"]

pytestmark = NEEDS_OPENSSL

OK, DENIED, UNKNOWN, NOT_THERE = (
    getattr(grpc.StatusCode, name).value[0] for name in ("OK", "PERMISSION_DENIED", "UNAUTHENTICATED", "UNIMPLEMENTED")
)
RANK = "relaygr.v1.RouterService/Rank"


async def asked(lane, token, methods):
    """What a lane says to a call of each method."""
    lane.say(greeting(token))
    await lane.heard()
    lane.say(*(asking_for(number, method) for number, method in enumerate(methods, 1)))
    heard = [await lane.heard() for _ in methods]
    return {methods[frame.call_id - 1]: frame.code for frame in heard}


async def carried_names(parties, served):
    """Unary methods that lanes carry: those of our services."""
    found = await methods_of(parties, served)
    return [one.name for one in found if one.is_unary and "relaygr" in one.name and "LaneService" not in one.name]


@pytest.mark.parametrize("role", list(Role))
async def test_each_role_reaches_over_a_lane_what_the_list_allows_it_and_nothing_else(parties, served, role):
    names, where = await carried_names(parties, served), await opened(parties, served)
    async with bare_tls(where.port, parties.context(parties.of(role))) as lane:
        found = await asked(lane, where.token, names)
    assert found == {name: OK if role in ALLOWED[name] else DENIED for name in names}
    assert set(served.calls) == {name for name in names if role in ALLOWED[name]}


async def test_what_is_no_traced_unary_method_is_not_there_over_a_lane(parties, served):
    where = await opened(parties, served)
    names = [name for name in ALLOWED if name not in await carried_names(parties, served)]
    async with bare_tls(where.port, parties.context(parties.of(Role.OPERATOR))) as lane:
        assert set((await asked(lane, where.token, names)).values()) == {NOT_THERE}


@pytest.mark.parametrize("kind", ["elsewhere", "nameless"])
async def test_a_certificate_of_nobody_here_reaches_nothing_over_a_lane(parties, served, kind):
    names, where = await carried_names(parties, served), await opened(parties, served)
    async with bare_tls(where.port, parties.context(parties.of(Role.OPERATOR, kind))) as lane:
        assert set((await asked(lane, where.token, names)).values()) == {UNKNOWN}
    assert not served.calls


@pytest.mark.parametrize("kind", [None, "stranger", "expired"])
async def test_a_lane_without_a_good_certificate_is_cut_off_before_it_says_a_word(parties, served, kind):
    where = await opened(parties, served)
    paths = parties.of(Role.OPERATOR, kind) if kind else None
    async with bare_tls(where.port, parties.context(paths)) as lane:
        with pytest.raises((ssl.SSLError, OSError, asyncio.IncompleteReadError)):
            await asked(lane, where.token, [RANK])
    assert not served.calls and not served.server._lanes._lanes


async def test_a_lane_on_plain_text_is_cut_off(parties, served):
    where = await opened(parties, served)
    async with bare_tls(where.port, None) as lane:
        lane.say(greeting(where.token))
        assert b"relaygr" not in await lane.heard_to_the_end()
    assert not served.calls and not served.server._lanes._lanes


async def test_who_begins_no_handshake_is_cut_off(parties, served):
    where = await opened(parties, served)
    async with bare_tls(where.port, None) as lane:
        assert await lane.heard_to_the_end() == b""


async def test_the_token_is_asked_for_beside_the_certificate(parties, served):
    where = await opened(parties, served)
    async with bare_tls(where.port, parties.context(parties.of(Role.CLIENT))) as lane:
        lane.say(greeting(bytes(16)))
        assert await lane.heard_to_the_end() == b""


async def test_calls_of_a_channel_are_carried_by_a_lane_under_tls(parties, served, telemetry):
    async with pool_of(telemetry, parties.kept(Role.CLIENT)) as pool:
        await carried(pool, served)
    assert served.shown[-1]["peer_uri"] == [b"relaygr://test/client/good"]


async def test_a_lane_is_refused_what_its_role_may_not_call(parties, served, telemetry):
    async with pool_of(telemetry, parties.kept(Role.CLIENT)) as pool:
        await carried(pool, served)
        stub, before = pool.stub(RouterServiceStub, served.address), served.server._lanes.counts.calls
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.PreInfer(RouterServiceRankRequest(), timeout=5)
        assert served.server._lanes.counts.calls == before + 1
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert caught.value.details() == "role client may not call relaygr.v1.RouterService/PreInfer"


@pytest.mark.parametrize(("role", "kind"), [(Role.RANKER, "good"), (Role.CLIENT, "good"), (SERVER_ROLE, "elsewhere")])
async def test_a_caller_opens_no_lane_to_a_server_of_another_name(parties, served, telemetry, role, kind):
    """Somebody else listens where the lanes should be, and knows the token."""
    other = LaneServer(8)
    other.token = served.server._lanes.token
    await other.start("127.0.0.1", 0, _listening(parties.of(role, kind)))
    served.server._lanes._port = other._port
    async with pool_of(telemetry, parties.kept(Role.CLIENT)) as pool:
        stub = pool.stub(RouterServiceStub, served.address)
        lanes = pool.get(served.address)._lanes
        await stub.Rank(RouterServiceRankRequest(), timeout=5)
        await settled(lambda: lanes._opening is None)
        await stub.Rank(RouterServiceRankRequest(), timeout=5)
        assert not lanes.counts.calls and lanes._lane is None
    assert other.counts.connections == 0 and len(served.calls) == 2
    await other.stop(0)


def _listening(paths):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(paths.certificate, paths.key)
    return context


async def test_an_open_lane_does_not_outlive_its_callers_certificate(parties, served, telemetry):
    async with pool_of(telemetry, parties.kept(Role.CLIENT)) as pool:
        await carried(pool, served)
        stub = pool.stub(RouterServiceStub, served.address)
        far_s = 10.0**10
        checked = served.server._guard
        assert isinstance(checked, guard.Guard)
        checked._unix_now_s = lambda: far_s
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Rank(RouterServiceRankRequest(), timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert caught.value.details() == "the certificate has expired"


async def test_a_server_stops_in_order_with_lanes_open_under_tls(parties, served, telemetry):
    async with pool_of(telemetry, parties.kept(Role.CLIENT)) as pool:
        await carried(pool, served)
        async with asyncio.timeout(3):
            await served.server.stop(2.0)
        assert not served.server._lanes._lanes


async def carried(pool, served):
    """Call until a lane carries a call."""
    stub = pool.stub(RouterServiceStub, served.address)
    async with asyncio.timeout(5):
        while not pool.get(served.address)._lanes.counts.calls:
            await stub.Rank(RouterServiceRankRequest(), timeout=5)


def test_the_name_that_callers_expect_is_the_one_in_the_certificate(parties):
    assert server_name_of(SERVER_ROLE, DEPLOYMENT) == SERVER_NAME == "router.test.relaygr"
