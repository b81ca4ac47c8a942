"""A trigger that admits everybody, or does what it is told."""

from __future__ import annotations

import asyncio

from relaygr.errors import RelayError
from relaygr.v1.common_pb2 import Ticket
from relaygr.v1.trigger_pb2 import ArriveRequest, ArriveResponse
from relaygr.v1.trigger_pb2_grpc import TriggerServiceServicer


class FakeTrigger(TriggerServiceServicer):
    """Serves relaygr.v1.TriggerService."""

    def __init__(self) -> None:
        self.failure: RelayError | None = None
        self.delay_s = 0.0
        self.admits = True
        self.arrivals: list[ArriveRequest] = []

    async def Arrive(self, request, context):  # type: ignore[no-untyped-def]  # noqa: D102
        self.arrivals.append(request)
        await asyncio.sleep(self.delay_s)
        if self.failure is not None:
            raise self.failure
        response = ArriveResponse(
            request_id=request.request_id or f"request-{len(self.arrivals)}",
            decision="DECISION_ADMITTED" if self.admits else "DECISION_NOT_AT_RISK",
            reason="DECISION_REASON_AT_RISK" if self.admits else "DECISION_REASON_FITS_BUDGET",
            ticket=Ticket(claims=b"claims", mac=b"mac") if self.admits else None,
            cut=request.history.cut,
            instance_id="ranker-0",
        )
        if not request.history.inline:
            response.cut.behaviour_count = 12
            response.cut.store_generation = "g1"
        return response
