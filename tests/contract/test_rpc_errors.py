"""What callers see when a servicer or the transport fails."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from opentelemetry.trace import SpanKind, StatusCode

from relaygr.errors import (
    AccessDenied,
    CorruptData,
    DeadlineTooShort,
    ForeignEpoch,
    InvalidRequest,
    NotHere,
    PeerFailed,
    Refused,
    RelayError,
    Stale,
    Unidentified,
    Unreachable,
)
from relaygr.rpc.status import error_of
from relaygr.rpc.tickets import decode_ticket, encode_ticket
from relaygr.telemetry import names
from relaygr.v1 import common_pb2, ranker_pb2, router_pb2
from tests.contract.rpc_world import RANK, World, answer, call_failing, ended, named, raising, world

__all__ = ["world"]

KEY = b"0123456789abcdef"

FAULTS = [
    InvalidRequest("candidates", "must not be empty"),
    Refused("64 jobs queued"),
    DeadlineTooShort("3 ms left"),
    Stale("generation 3 is gone"),
    ForeignEpoch("epoch 4"),
    NotHere("user"),
    AccessDenied("tenant"),
    Unidentified("no certificate"),
    CorruptData("page 3"),
    Unreachable("10.0.0.1:1", "refused"),
    PeerFailed("10.0.0.1:1", "bug"),
]


def test_every_class_of_the_tree_is_tried() -> None:
    def classes(root: type[RelayError]) -> set[type[RelayError]]:
        return {root}.union(*(classes(child) for child in root.__subclasses__()))

    shared = {error for error in classes(RelayError) if error.__module__ == "relaygr.errors"}
    assert {type(fault) for fault in FAULTS} == shared - {RelayError}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
async def test_fault_crosses_two_hops_as_the_same_class(world: World, fault: RelayError) -> None:
    router = await world.router(await world.ranker(raising(fault)))
    failed = await call_failing(world.to_router(router).Rank, router_pb2.RouterServiceRankRequest())
    error = error_of(failed, router)
    assert type(error) is type(fault)
    assert str(fault) in str(error)
    assert named(world.spans, RANK, SpanKind.SERVER).attributes[names.ATTR_ERROR] == type(fault).__name__


async def test_unexpected_exception_is_internal_logged_and_tells_nothing(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    ranker = await world.ranker(raising(KeyError("secret detail")))
    failed = await call_failing(world.to_ranker(ranker).Rank, ranker_pb2.RankRequest())
    assert failed.code() is grpc.StatusCode.INTERNAL
    assert "secret detail" not in (failed.details() or "")
    assert "secret detail" in caplog.text and "Traceback" in caplog.text
    span = named(world.spans, RANK, SpanKind.SERVER)
    assert span.status.status_code is StatusCode.ERROR
    assert span.events[0].name == "exception"


async def test_abort_of_the_servicer_passes_unchanged(world: World) -> None:
    async def rank(request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.ALREADY_EXISTS, "as is")

    failed = await call_failing(world.to_ranker(await world.ranker(rank)).Rank, ranker_pb2.RankRequest())
    assert (failed.code(), failed.details()) == (grpc.StatusCode.ALREADY_EXISTS, "as is")
    # An abort is sent from within the handler, so the caller may hear of it before the span has ended.
    span = await ended(world.spans, RANK, SpanKind.SERVER)
    assert span.attributes[names.ATTR_RPC_RESPONSE_STATUS_CODE] == "ALREADY_EXISTS"


async def test_downstream_failure_let_through_keeps_its_meaning(world: World) -> None:
    inner = await world.ranker(raising(Refused("full")))
    stub = world.to_ranker(inner)

    async def forward(request: Any, context: Any) -> Any:
        return await stub.Rank(request, timeout=1)

    failed = await call_failing(world.to_ranker(await world.ranker(forward)).Rank, ranker_pb2.RankRequest())
    assert failed.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_oversize_request_is_resource_exhausted(world: World) -> None:
    ranker = await world.ranker(answer, message_bytes_max=1024)
    failed = await call_failing(world.to_ranker(ranker).Rank, ranker_pb2.RankRequest(user="u" * 4096))
    assert failed.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert isinstance(error_of(failed, ranker), Refused)


async def test_garbage_bytes_are_an_invalid_request(world: World) -> None:
    raw = world.pool.get(await world.ranker(answer)).unary_unary("/" + RANK)
    error = error_of(await call_failing(raw, b"\xff\xff\xff"), "ranker")
    assert isinstance(error, InvalidRequest) and error.field == "request"


async def test_forged_ticket_is_an_invalid_request_that_names_it(world: World) -> None:
    async def rank(request: Any, context: Any) -> Any:
        return ranker_pb2.RankResponse(instance_id=decode_ticket(request.ticket, KEY).instance_id)

    stub = world.to_ranker(await world.ranker(rank))
    ticket = encode_ticket(common_pb2.TicketClaims(ticket_id="t", instance_id="a"), KEY)
    assert (await stub.Rank(ranker_pb2.RankRequest(ticket=ticket), timeout=5)).instance_id == "a"
    forged = common_pb2.Ticket(claims=ticket.claims.replace(b"a", b"b"), mac=ticket.mac)
    error = error_of(await call_failing(stub.Rank, ranker_pb2.RankRequest(ticket=forged)), "ranker")
    assert isinstance(error, InvalidRequest) and error.field == "ticket"


async def test_nobody_listening_is_unreachable(world: World) -> None:
    ranker = await world.ranker(answer)
    await world.servers.pop().stop(0)
    error = error_of(await call_failing(world.to_ranker(ranker).Rank, ranker_pb2.RankRequest()), ranker)
    assert isinstance(error, Unreachable) and error.peer == ranker and error.is_retryable


async def test_errors_are_counted_by_class(world: World) -> None:
    ranker = await world.ranker(raising(NotHere("x")))
    await call_failing(world.to_ranker(ranker).Rank, ranker_pb2.RankRequest())
    (point,) = world.telemetry.points(names.METRIC_RPC_ERRORS)
    assert point.value == 1 and dict(point.attributes)[names.ATTR_ERROR] == "NotHere"
