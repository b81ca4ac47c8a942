"""Every method of every service, called by every kind of party: what the list of methods does not allow is refused."""

from __future__ import annotations

import logging

import grpc
import pytest

from relaygr.errors import AccessDenied
from relaygr.rpc.status import error_of
from relaygr.security import methods
from relaygr.security.identity import SERVERS, Role
from relaygr.security.methods import ALLOWED
from relaygr.v1.ranker_pb2 import DrainRequest
from relaygr.v1.ranker_pb2_grpc import RankerServiceStub
from tests.contract.rpc_world import call_failing
from tests.contract.security_world import (
    NEEDS_OPENSSL,
    SERVER_ROLE,
    TIMEOUT_S,
    Method,
    methods_of,
    outcome,
    parties,
    pool_of,
    served,
    serving,
    telemetry,
)

__all__ = ["parties", "served", "telemetry"]

pytestmark = NEEDS_OPENSSL

DENIED = grpc.StatusCode.PERMISSION_DENIED
UNKNOWN = grpc.StatusCode.UNAUTHENTICATED
NO_CONNECTION = grpc.StatusCode.UNAVAILABLE
OPEN = "relaygr.v1.LaneService/Open"


def allowed(role):
    return {name for name, roles in ALLOWED.items() if role in roles}


async def test_the_list_names_every_method_there_is_and_no_other(parties, served):
    assert {method.name for method in await methods_of(parties, served)} == set(ALLOWED)


async def test_the_list_names_every_method_that_a_server_registers(parties, served, monkeypatch):
    """Also those that reflection does not show."""
    registered = set()
    kind = type(served.server._server)
    register = kind.add_registered_method_handlers

    def noted(server, service, methods):
        registered.update(f"{service}/{name}" for name in methods)
        register(server, service, methods)

    monkeypatch.setattr(kind, "add_registered_method_handlers", noted)
    async with serving(parties.kept(SERVER_ROLE)):
        assert registered == set(ALLOWED)


@pytest.mark.parametrize("role", list(Role))
async def test_each_role_reaches_what_the_list_allows_it_and_nothing_else(parties, served, role):
    async with parties.channel(served.address, parties.of(role)) as channel:
        found = {method.name: await outcome(channel, method) for method in await methods_of(parties, served)}
    assert {name for name, code in found.items() if code is not DENIED} == allowed(role)
    # Health's List is in its proto and not served.
    assert set(found.values()) <= {DENIED, grpc.StatusCode.OK, grpc.StatusCode.UNIMPLEMENTED}
    assert set(served.calls) == {name for name in allowed(role) if name.startswith("relaygr")} - {OPEN}


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (None, NO_CONNECTION),
        ("stranger", NO_CONNECTION),
        ("expired", NO_CONNECTION),
        ("elsewhere", UNKNOWN),
        ("nameless", UNKNOWN),
    ],
)
async def test_without_a_good_certificate_no_method_is_reached(parties, served, kind, code):
    paths = parties.of(Role.OPERATOR, kind) if kind else None
    async with parties.channel(served.address, paths) as channel:
        found = {method.name: await outcome(channel, method) for method in await methods_of(parties, served)}
    assert set(found.values()) == {code}, found
    assert not served.calls


async def test_plain_text_reaches_no_method(parties, served):
    async with grpc.aio.insecure_channel(served.address) as channel:
        found = {method.name: await outcome(channel, method) for method in await methods_of(parties, served)}
    assert set(found.values()) == {NO_CONNECTION}, found
    assert not served.calls


async def test_a_method_without_an_entry_is_nobodys(parties, served, monkeypatch):
    method = "relaygr.v1.TriggerService/Arrive"
    monkeypatch.setattr(methods, "ALLOWED", {name: roles for name, roles in ALLOWED.items() if name != method})
    (wanted,) = [one for one in await methods_of(parties, served) if one.name == method]
    for role in Role:
        async with parties.channel(served.address, parties.of(role)) as channel:
            assert await outcome(channel, wanted) is DENIED


async def test_a_refusal_names_role_and_method_and_is_told_once(parties, served, caplog):
    with caplog.at_level(logging.WARNING, logger="relaygr.security.guard"):
        async with parties.channel(served.address, parties.of(Role.CLIENT)) as channel:
            for _ in range(3):
                failed = await call_failing(RankerServiceStub(channel).Drain, DrainRequest())
    assert failed.details() == "role client may not call relaygr.v1.RankerService/Drain"
    assert type(error_of(failed, "p")) is AccessDenied
    (told,) = caplog.records
    assert "relaygr://test/client/good" in told.getMessage() and told.next_step


async def test_garbage_of_a_wrong_role_is_refused_before_it_is_read(parties, served):
    async with parties.channel(served.address, parties.of(Role.CLIENT)) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/relaygr.v1.RankerService/Drain")(b"\xff\xff", timeout=TIMEOUT_S)
    assert caught.value.code() is DENIED


@pytest.mark.parametrize("role", sorted(SERVERS - {SERVER_ROLE}))
async def test_a_server_of_another_role_is_not_called(parties, telemetry, served, role):
    """A router that answers at a ranker's address, say: its certificate is good, but not a ranker's."""
    async with pool_of(telemetry, parties.kept(Role.CLIENT)) as pool:
        method = pool.get(served.address, role).unary_unary("/relaygr.v1.RouterService/Rank")
        assert (await call_failing(method, b"")).code() is NO_CONNECTION
    async with pool_of(telemetry, parties.kept(Role.CLIENT)) as pool:
        await pool.get(served.address, SERVER_ROLE).unary_unary("/relaygr.v1.RouterService/Rank")(
            b"", timeout=TIMEOUT_S
        )
    assert len(served.calls) == 1


async def test_without_tls_everybody_reaches_everything_as_before():
    async with serving(None) as served, grpc.aio.insecure_channel(served.address) as channel:
        for name in ("relaygr.v1.RouterService/PreInfer", "relaygr.v1.RankerService/Drain"):
            assert await outcome(channel, _unary(name)) is grpc.StatusCode.OK


def _unary(name):
    return Method(name, False, False)
