"""Certificates that change while the processes run: what is open stays, what is new has the new one, nothing breaks."""

from __future__ import annotations

import asyncio
import logging
import shutil
import ssl

import grpc
import pytest

from relaygr.security.authority import Authority
from relaygr.security.identity import Identity, Role
from relaygr.security.material import KeptMaterial, MaterialError
from relaygr.v1.router_pb2 import RouterServiceRankRequest
from relaygr.v1.router_pb2_grpc import RouterServiceStub
from tests.contract.lane_world import settled
from tests.contract.security_world import (
    DEPLOYMENT,
    NEEDS_OPENSSL,
    SERVER_NAME,
    SERVER_ROLE,
    certificate_in,
    opened,
    parties,
    pool_of,
    serving,
    telemetry,
)

__all__ = ["parties", "telemetry"]

pytestmark = NEEDS_OPENSSL

REQUEST = RouterServiceRankRequest()


class Rotating:
    """A party whose files change."""

    def __init__(self, authority, folder, role):
        self.identity = Identity(DEPLOYMENT, role, "rotating")
        self.folder = folder
        shutil.copytree(authority.folder, folder)
        self.authority = Authority(folder)
        self.paths = self.authority.issue(self.identity)
        self.kept = KeptMaterial(self.paths, look_s=0.0)

    def renew(self, days=30):
        self.authority.issue(self.identity, days)

    def put(self, paths):
        """Others' files in place of its own."""
        shutil.copy(paths.key, self.paths.key)
        shutil.copy(paths.certificate, self.paths.certificate)

    @property
    def certificate(self):
        """PEM."""
        return self.paths.certificate.read_text().strip()


@pytest.fixture
def server(parties, tmp_path):
    return Rotating(parties.authority, tmp_path / "server", SERVER_ROLE)


@pytest.fixture
def client(parties, tmp_path):
    return Rotating(parties.authority, tmp_path / "client", Role.CLIENT)


async def shown_at(port, context, *, alpn=()):
    """The certificate that a new connection is shown."""
    if alpn:
        context.set_alpn_protocols(alpn)
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=SERVER_NAME)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return ssl.DER_cert_to_PEM_cert(der).strip()


async def test_a_server_shows_its_new_certificate_and_keeps_its_old_connections(parties, server, telemetry):
    async with serving(server.kept) as served:
        port, lane_port = int(served.address.rpartition(":")[2]), (await opened(parties, served)).port
        context = parties.context(parties.of(Role.CLIENT))
        before = server.certificate
        assert await shown_at(port, context, alpn=["h2"]) == await shown_at(lane_port, context) == before
        async with pool_of(telemetry, parties.kept(Role.CLIENT), has_lanes=False) as pool:
            stub = pool.stub(RouterServiceStub, served.address)
            await stub.Rank(REQUEST, timeout=5)
            server.renew()
            await stub.Rank(REQUEST, timeout=5)
        assert await shown_at(port, context, alpn=["h2"]) == await shown_at(lane_port, context) == server.certificate
        assert server.certificate != before and len(set(served.peers)) == 1


async def test_a_caller_shows_its_new_certificate_from_the_next_call_on(client, parties, telemetry):
    async with (
        serving(parties.kept(SERVER_ROLE)) as served,
        pool_of(telemetry, client.kept, has_lanes=False) as pool,
    ):
        stub = pool.stub(RouterServiceStub, served.address)
        shown = []
        for _ in range(2):
            await stub.Rank(REQUEST, timeout=5)
            shown.append(certificate_in(served.shown[-1]))
            assert shown[-1] == client.certificate
            client.renew()
        assert shown[0] != shown[1]


async def test_a_call_on_its_way_ends_on_the_connection_it_began_on(client, parties, telemetry):
    async with (
        serving(parties.kept(SERVER_ROLE)) as served,
        pool_of(telemetry, client.kept, has_lanes=False) as pool,
    ):
        began, may_end = asyncio.Event(), asyncio.Event()

        async def held():
            began.set()
            await may_end.wait()

        served.before_answer = held
        stub = pool.stub(RouterServiceStub, served.address)
        first = asyncio.ensure_future(stub.Rank(REQUEST, timeout=10))
        await began.wait()
        client.renew()
        second = asyncio.ensure_future(stub.Rank(REQUEST, timeout=10))
        await settled(lambda: len(served.peers) == 2)
        may_end.set()
        await asyncio.gather(first, second)
        assert len(set(served.peers)) == 2


async def test_a_channel_that_closes_ends_the_calls_on_the_one_it_left(client, parties, telemetry):
    async with serving(parties.kept(SERVER_ROLE)) as served:
        async with pool_of(telemetry, client.kept, has_lanes=False) as pool:
            began = asyncio.Event()

            async def held():
                began.set()
                await asyncio.Event().wait()

            served.before_answer = held
            stub = pool.stub(RouterServiceStub, served.address)
            first = asyncio.ensure_future(stub.Rank(REQUEST, timeout=30))
            await began.wait()
            client.renew()
            second = asyncio.ensure_future(stub.Rank(REQUEST, timeout=30))
            await settled(lambda: len(served.peers) == 2)
        async with asyncio.timeout(5):
            ended = await asyncio.gather(first, second, return_exceptions=True)
        assert all(isinstance(one, grpc.aio.AioRpcError | asyncio.CancelledError) for one in ended)


async def test_a_lane_that_is_opened_again_shows_the_new_certificate(client, parties, telemetry):
    async with serving(parties.kept(SERVER_ROLE)) as served, pool_of(telemetry, client.kept) as pool:
        stub, lanes = pool.stub(RouterServiceStub, served.address), pool.get(served.address)._lanes

        async def by_lane():
            before = lanes.counts.calls
            async with asyncio.timeout(5):
                while lanes.counts.calls == before:
                    await stub.Rank(REQUEST, timeout=5)
            return certificate_in(served.shown[-1])

        assert await by_lane() == client.certificate
        client.renew()
        lanes._lane.retire()
        lanes._not_before_s = 0.0
        assert await by_lane() == client.certificate


@pytest.mark.parametrize("broken", ["expired", "garbage", "another key", "no file", "stranger", "another role"])
async def test_new_files_that_do_not_work_are_not_used(parties, server, telemetry, caplog, broken):
    async with serving(server.kept) as served:
        port, context = int(served.address.rpartition(":")[2]), parties.context(parties.of(Role.CLIENT))
        before = server.certificate
        with caplog.at_level(logging.WARNING, logger="relaygr.security.material"):
            match broken:
                case "expired":
                    server.renew(days=-1)
                case "garbage":
                    server.paths.certificate.write_text("garbage")
                case "another key":
                    shutil.copy(parties.of(SERVER_ROLE).key, server.paths.key)
                case "no file":
                    server.paths.key.unlink()
                case "stranger":
                    server.put(parties.of(SERVER_ROLE, "stranger"))
                case "another role":
                    server.put(parties.of(Role.RANKER))
            assert await shown_at(port, context, alpn=["h2"]) == before
            assert await shown_at(port, context, alpn=["h2"]) == before
        (told,) = caplog.records
        assert str(server.folder) in told.getMessage() and told.next_step
        server.renew()
        assert await shown_at(port, context, alpn=["h2"]) == server.certificate


async def test_a_caller_whose_certificate_ended_is_refused_when_it_connects_again(parties, client, telemetry):
    async with serving(parties.kept(SERVER_ROLE)) as served:
        async with parties.channel(served.address, client.paths) as channel:
            await RouterServiceStub(channel).Rank(REQUEST, timeout=5)
        client.renew(days=-1)
        async with parties.channel(served.address, client.paths) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await RouterServiceStub(channel).Rank(REQUEST, timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_an_authority_takes_over_from_another_while_both_are_trusted(parties, server, telemetry, tmp_path):
    """First both are trusted everywhere, then certificates change one by one."""
    paths = parties.of(Role.CLIENT, "stranger")
    async with serving(server.kept) as served:
        async with parties.channel(served.address, paths) as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await RouterServiceStub(channel).Rank(REQUEST, timeout=5)
        both = parties.authority.certificate.read_text() + parties.stranger.certificate.read_text()
        server.paths.authority.write_text(both)
        async with parties.channel(served.address, paths) as channel:
            await RouterServiceStub(channel).Rank(REQUEST, timeout=5)
        # And back: who is not trusted any more does not connect again.
        server.paths.authority.write_text(parties.authority.certificate.read_text())
        async with parties.channel(served.address, paths) as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await RouterServiceStub(channel).Rank(REQUEST, timeout=5)


def test_files_are_looked_at_no_more_often_than_said(server):
    now_s = [0.0]
    kept = KeptMaterial(server.paths, look_s=1.0, clock_s=lambda: now_s[0])
    server.renew()
    now_s[0] = 0.9
    assert kept.current().version == 1
    now_s[0] = 1.0
    assert kept.current().version == 2


def test_an_end_that_comes_near_is_told_once_a_day(server, caplog):
    ends_s = server.kept.current().expires_unix_s
    now_s = [ends_s - 8 * 86_400.0]
    kept = KeptMaterial(server.paths, look_s=0.0, unix_now_s=lambda: now_s[0])
    told = []
    with caplog.at_level(logging.WARNING, logger="relaygr.security.material"):
        for _ in range(20):
            kept.current()
            told.append(len(caplog.records))
            now_s[0] += 43_200.0
    assert told == [0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9]
    assert "has ended" in caplog.records[-1].getMessage() and caplog.records[-1].next_step


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("expired", "certificate has expired"),
        ("stranger", "issuer certificate"),
        ("nameless", "holds no URI relaygr://"),
    ],
)
def test_files_that_do_not_work_stop_a_start(parties, kind, text):
    paths = parties.of(SERVER_ROLE, kind)
    with pytest.raises(MaterialError, match=text) as caught:
        KeptMaterial(paths)
    assert str(paths.certificate) in str(caught.value)


def test_a_certificate_of_another_role_stops_a_start(parties):
    with pytest.raises(MaterialError, match="is of role client, and router is needed"):
        KeptMaterial(parties.of(Role.CLIENT), role=Role.ROUTER)
