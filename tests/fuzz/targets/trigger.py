"""The trigger's RPC, with a router that answers from memory; and what such a router answers.

What a router says of an instance stands in etcd, where anything may have written it. So an input may also be an answer:
it is given to an honest arrival, and the next one, which remembers it, must be served as ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

from google.protobuf.message import DecodeError

from relaygr.rpc.server import RpcServer
from relaygr.rpc.tickets import decode_ticket
from relaygr.testing.fake_router import resolve_response
from relaygr.v1.common_pb2 import Feedback, History
from relaygr.v1.ranker_pb2 import ACCEPTANCE_STARTED, PreInferResponse
from relaygr.v1.router_pb2 import ResolveResponse
from relaygr.v1.trigger_pb2 import ArriveRequest, StageBudgets
from relaygr.v1.trigger_pb2_grpc import add_TriggerServiceServicer_to_server
from services.trigger.adapters.histories import Histories
from services.trigger.adapters.router import Binding, _binding_of
from services.trigger.config import TriggerConfig
from services.trigger.service import TriggerService
from tests.fuzz import ground
from tests.fuzz.calls import Calls, Method
from tests.fuzz.subject import Subject
from tests.fuzz.verdict import ACCEPTED, Verdict, crash, rejected

MS = 1_000_000
ARRIVE = "/relaygr.v1.TriggerService/Arrive"
RESOLVE = "/relaygr.v1.RouterService/Resolve"
ENDED_AT_ONCE = 16


class NearRouter:
    """Answers at once, and tells of each ticket's end with one of the next answers."""

    trigger_id = "trigger-1"

    def __init__(self) -> None:
        self._ended: list[str] = []
        self.answer: ResolveResponse | None = None
        """In the place of an honest one."""

    async def resolve(self, user: Any, **asked: Any) -> Binding | None:
        if self.answer is not None:
            return _binding_of(self.answer)
        ended, self._ended = self._ended[:ENDED_AT_ONCE], self._ended[ENDED_AT_ONCE:]
        return _binding_of(resolve_response(ended_ticket_ids=ended))

    async def pre_infer(self, ticket: Any, history: Any, window_ns: int) -> PreInferResponse:
        self._ended.append(decode_ticket(ticket, ground.KEY).ticket_id)
        return PreInferResponse(acceptance=ACCEPTANCE_STARTED)


class Trigger(Calls):
    """Arrivals, and answers to them."""

    def __init__(self, service: TriggerService, histories: Histories, router: NearRouter) -> None:
        methods = {ARRIVE: Method(ArriveRequest, arrival, 3), RESOLVE: Method(ResolveResponse, answer, 1)}
        super().__init__(methods, ground.KEY)
        self._service, self._histories, self._router = service, histories, router

    async def give(self, data: bytes) -> Verdict:
        head, _, written = data.partition(b"\n")
        if not head.endswith(RESOLVE.encode()):
            return await super().give(data)
        return await self._give_directly(RESOLVE, self._methods[RESOLVE], written)

    async def _give_directly(self, path: str, method: Method, request: bytes) -> Verdict:
        if path != RESOLVE:
            return await super()._give_directly(path, method, request)
        try:
            self._router.answer = ResolveResponse.FromString(request)
        except DecodeError:
            return rejected("gRPC's own parsing")
        honest = [arrival(Random(number)).SerializeToString() for number in (1, 4)]
        try:
            found = [await self._give_directly(ARRIVE, self._methods[ARRIVE], one) for one in honest]
        finally:
            self._router.answer = None
        after = await self._give_directly(ARRIVE, self._methods[ARRIVE], honest[0])
        if after is not ACCEPTED:
            return crash(f"after it, an honest arrival fails: {after.detail}")
        return next((one for one in found if one is not ACCEPTED), ACCEPTED)

    async def settle(self) -> None:
        await self._service.drain(1.0)

    def sizes(self) -> dict[str, tuple[int, int]]:
        held = self._service.admission.holdings
        return {"unanswered": (held.unanswered, 0), "reads": (self._histories.pending, 0)}


def arrival(random: Random) -> ArriveRequest:
    """By a store's cursor, or inline."""
    is_stored = random.random() < 0.3
    history = History(as_of_s=random.choice((0, ground.BEGIN_S + 600))) if is_stored else ground.history(random)
    budgets = StageBudgets(rank_budget_ns=5 * MS, time_to_rank_ns=50 * MS, rank_latest_ns=700 * MS)
    return ArriveRequest(
        tenant=random.choice(("", "default", "shop")),
        user=str(random.randrange(1, 40)),
        request_id=random.choice(("", "r-1")),
        history=history,
        candidate_count=random.choice((0, 8, 100, 512)),
        delta_behaviour_count=random.choice((0, 3, 50)),
        budgets=budgets if random.random() < 0.5 else None,
    )


def answer(random: Random) -> ResolveResponse:
    """Of a router."""
    return resolve_response(
        rank_rate_hz=random.choice((0.0, 5.0, 200.0)),
        feedback=Feedback(pre_infers=9, declined_footprint=1, relays=5, relays_lost=1, productions=3),
        ended_ticket_ids=["t1", "t2"],
    )


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Subject]:
    telemetry = ground.quiet()
    config = TriggerConfig(ticket_key=ground.KEY, rank_budget_ms=5.0, time_to_rank_ms=50.0)
    histories = Histories(ground.store(directory), 1.0)
    router = NearRouter()
    client: Any = router
    service = TriggerService(config, client, histories, telemetry)
    server = RpcServer(service_name="trigger", address="127.0.0.1:0", telemetry=telemetry)
    server.add(add_TriggerServiceServicer_to_server, service, "relaygr.v1.TriggerService")
    subject = Trigger(service, histories, router)
    await subject.serve(server, telemetry)
    try:
        yield subject
    finally:
        await subject.close()
        await asyncio.gather(service.drain(0.5), server.stop(0))
        service.close()
