"""The router's RPCs, with rankers that answer from memory."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

from google.protobuf.message import DecodeError

from relaygr.errors import InvalidRequest
from relaygr.rpc.channel import ChannelPool
from relaygr.rpc.server import RpcServer
from relaygr.v1 import common_pb2, ranker_pb2, router_pb2
from services.router.adapters.rankers import Rankers
from services.router.config import RouterConfig
from services.router.core.binding import Binding, Placement
from services.router.core.events import Listed, PinDropped, PinRead, UserPlaced
from services.router.forward import add_router_service
from services.router.relay import Relay
from services.router.service import RouterService
from services.router.view import View
from tests.fuzz import ground
from tests.fuzz.calls import Calls, Method
from tests.fuzz.subject import Subject
from tests.unit.router.fleet import record

ROUTER = "/relaygr.v1.RouterService"
PINS_MAX = 256
CONFIG = RouterConfig(ticket_key=ground.KEY, pins_max=PINS_MAX, calls_max=64)
RECORDS = tuple(record(f"r{number}", budget=1 << 24) for number in range(4))


class NearRankers(Rankers):
    """Answer at once what a ranker would."""

    async def rank(self, address: str, request: Any, timeout_s: float) -> bytes:  # type: ignore[override]
        try:
            ranker_pb2.RankRequest.FromString(request.raw)
        except DecodeError:
            raise InvalidRequest("request", "cannot be parsed") from None
        load = common_pb2.Load(backlog_ns=1_000, device_budget_bytes=1 << 24)
        return ranker_pb2.RankResponse(logits=b"1234", tier="TIER_DEVICE", load=load).SerializeToString()

    async def pre_infer(self, address: str, request: Any, timeout_s: float) -> ranker_pb2.PreInferResponse:
        return ranker_pb2.PreInferResponse(acceptance="ACCEPTANCE_STARTED", feedback=common_pb2.Feedback(pre_infers=1))

    async def release(self, address: str, request: Any, timeout_s: float) -> ranker_pb2.ReleaseResponse:
        return ranker_pb2.ReleaseResponse(was_held=True)

    async def forget(self, address: str, request: Any, timeout_s: float) -> ranker_pb2.ForgetResponse:
        return ranker_pb2.ForgetResponse(device_entries=1, dram_reached=True)

    async def is_serving(self, address: str, timeout_s: float) -> bool:
        return True

    async def is_alive(self, address: str, timeout_s: float) -> bool:
        return True


class Fuzzed(Calls):
    """Resolves, pre-infers, ranks, releases, reports, forgets."""

    def __init__(self, core: Binding, service: RouterService) -> None:
        methods = {
            f"{ROUTER}/Resolve": Method(router_pb2.ResolveRequest, resolve, 3),
            f"{ROUTER}/PreInfer": Method(router_pb2.RouterServicePreInferRequest, pre_infer, 3),
            f"{ROUTER}/Rank": Method(router_pb2.RouterServiceRankRequest, rank, 5),
            f"{ROUTER}/Release": Method(router_pb2.RouterServiceReleaseRequest, release, 2),
            f"{ROUTER}/ReportEnded": Method(router_pb2.RouterServiceReportEndedRequest, report, 2),
            f"{ROUTER}/Forget": Method(router_pb2.RouterServiceForgetRequest, forget, 1),
        }
        super().__init__(methods, ground.KEY)
        self._core, self._service = core, service

    async def settle(self) -> None:
        self._core.check()

    def sizes(self) -> dict[str, tuple[int, int]]:
        return {**self._core.sizes(), **self._service.ended.sizes()}


def user(random: Random) -> str:
    return f"user-{random.randrange(1_000)}"


def ticket(random: Random, history: common_pb2.History, name: str) -> common_pb2.Ticket:
    return ground.ticket(
        random.choice(RECORDS),
        ticket_id=f"t{random.randrange(100_000)}",
        user=name,
        cut=history.cut,
        trigger_id=random.choice(("trigger-1", "trigger-2", "")),
    )


def resolve(random: Random) -> router_pb2.ResolveRequest:
    return router_pb2.ResolveRequest(
        user=user(random),
        expected_ns=random.choice((0, 1_000_000, 10**9)),
        will_admit=random.random() < 0.5,
        window_ns=random.choice((0, 10**9, 10**10)),
        rank_on_psi_ns=1_000_000,
        trigger_id=random.choice(("", "trigger-1", "trigger-2")),
    )


def pre_infer(random: Random) -> router_pb2.RouterServicePreInferRequest:
    history = ground.history(random)
    inner = ranker_pb2.PreInferRequest(ticket=ticket(random, history, user(random)), history=history)
    return router_pb2.RouterServicePreInferRequest(pre_infer=inner)


def rank(random: Random) -> router_pb2.RouterServiceRankRequest:
    name, history = user(random), ground.history(random)
    inner = ranker_pb2.RankRequest(user=name, history=history, candidates=ground.candidates(random), request_time_s=9)
    if random.random() < 0.7:
        inner.ticket.CopyFrom(ticket(random, history, name))
    return router_pb2.RouterServiceRankRequest(rank=inner)


def release(random: Random) -> router_pb2.RouterServiceReleaseRequest:
    return router_pb2.RouterServiceReleaseRequest(ticket=ticket(random, common_pb2.History(), user(random)))


def report(random: Random) -> router_pb2.RouterServiceReportEndedRequest:
    tickets = [ticket(random, common_pb2.History(), user(random)) for _ in range(random.choice((0, 1, 5)))]
    return router_pb2.RouterServiceReportEndedRequest(tickets=tickets)


def forget(random: Random) -> router_pb2.RouterServiceForgetRequest:
    return router_pb2.RouterServiceForgetRequest(tenant="default", user=user(random))


@asynccontextmanager
async def routing() -> AsyncIterator[tuple[Fuzzed, View]]:
    """A router's parts, but for what connects to etcd; nobody is registered yet."""
    telemetry = ground.quiet()
    core = Binding(pins_max=PINS_MAX, members_max=16, calls_max=CONFIG.calls_max, tables_max=8)
    rankers = NearRankers(ChannelPool(telemetry))
    view = View(core, rankers, telemetry, suspect_timeout_s=0.3, changed=lambda: None)
    relay = Relay(core, view.driver.feed, rankers, view.probes, telemetry, view.metrics, margin_ns=CONFIG.margin_ns)

    def placed(placement: Placement, brought: UserPlaced | None) -> None:
        if brought is not None:
            view.driver.feed(brought)
        if (pin := placement.pin) is not None:
            until_ns = time.monotonic_ns() + pin.window_ns
            view.driver.feed(PinRead(pin.user_hash, pin.instance_id, pin.epoch, until_ns))

    service = RouterService(
        CONFIG,
        core,
        relay,
        placed=placed,
        unpin=lambda user_hash: view.driver.feed(PinDropped(user_hash)),
        trigger_count=lambda: 2,
    )
    server = RpcServer(service_name="router", address="127.0.0.1:0", telemetry=telemetry)
    server.add(add_router_service, service, "relaygr.v1.RouterService")
    subject = Fuzzed(core, service)
    await subject.serve(server, telemetry)
    try:
        yield subject, view
    finally:
        await subject.close()
        await server.stop(0)
        view.driver.close()
        await view.close()


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Subject]:
    async with routing() as (subject, view):
        view.driver.feed(Listed(RECORDS))
        yield subject
