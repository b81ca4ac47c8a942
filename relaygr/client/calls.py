"""The client's calls: each with a timeout, each error one of relaygr.errors.

Source: design, section 3 (client library), invariant I6.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol

import grpc

from relaygr.client.ended import EndedTickets
from relaygr.client.suspects import CHECK_AT, LEAVE_AT, Suspects, is_alive
from relaygr.errors import DeadlineTooShort, Unreachable
from relaygr.rpc.channel import ChannelPool
from relaygr.rpc.patience import Patience
from relaygr.rpc.peers import Peers
from relaygr.rpc.status import error_of
from relaygr.security.identity import Role
from relaygr.security.material import KeptMaterial
from relaygr.telemetry import Telemetry
from relaygr.v1.common_pb2 import Ticket
from relaygr.v1.ranker_pb2 import RankRequest
from relaygr.v1.router_pb2 import (
    Branch,
    RouterServiceForgetRequest,
    RouterServiceForgetResponse,
    RouterServiceRankRequest,
    RouterServiceRankResponse,
    RouterServiceReleaseRequest,
    RouterServiceReportEndedRequest,
)
from relaygr.v1.router_pb2_grpc import RouterServiceStub
from relaygr.v1.trigger_pb2 import ArriveRequest, ArriveResponse
from relaygr.v1.trigger_pb2_grpc import TriggerServiceStub

MESSAGE_BYTES_MAX = 8 * 1024 * 1024
_ROLES: dict[Any, Role] = {TriggerServiceStub: Role.TRIGGER, RouterServiceStub: Role.ROUTER}


class Direct(Protocol):
    """A way to the rankers that passes the router by, as `services.router.direct.DirectRanks` is."""

    async def rank(
        self, request: RankRequest, timeout_s: float, telemetry: Telemetry
    ) -> RouterServiceRankResponse | None:
        """Rank; None when the router should be asked instead.

        Raises:
            RelayError: a refusal that the router would pass on as well.
        """
        ...

    async def close(self) -> None:
        """Close what is open; repeatable."""
        ...


class Calls:
    """Channels to triggers and routers; of several addresses one is called until it is lost.

    `direct`, if there is one, has the first try at each rank. `tls` is shown to both; None: plain text.
    """

    def __init__(
        self,
        trigger: str,
        router: str,
        telemetry: Telemetry,
        direct: Direct | None = None,
        tls: KeptMaterial | None = None,
    ):
        self._direct = direct
        self._telemetry = telemetry
        self._pool = ChannelPool(telemetry, MESSAGE_BYTES_MAX, tls=tls)
        self._triggers = Peers(trigger)
        self._routers = Peers(router)
        self._suspects = Suspects(lambda address, timeout_s: is_alive(self._pool, address, timeout_s))
        self._ended = EndedTickets(self._report_ended)
        self._is_closed = False

    async def arrive(self, request: ArriveRequest, timeout_s: float) -> ArriveResponse:
        """Announce a request."""
        return await self._call(self._triggers, TriggerServiceStub, "Arrive", request, timeout_s)

    async def rank(self, request: RankRequest, timeout_s: float) -> RouterServiceRankResponse:
        """Rank; once more, with the next router if there is one, when it was lost: ranking changes nothing."""
        end_s = time.monotonic() + timeout_s
        if self._direct is not None and not self._is_closed:
            answer = await self._direct.rank(request, timeout_s, self._telemetry)
            if answer is not None:
                self._note_ended(request, answer)
                return answer
        message, address = RouterServiceRankRequest(rank=request), self._routers.current
        try:
            return await self._rank_while_heard(message, address, _left_s(end_s))
        except Unreachable:
            other = self._routers.after(address)
            return await self._call_at(other, self._routers, RouterServiceStub, "Rank", message, _left_s(end_s))

    async def release(self, ticket: Ticket, timeout_s: float) -> bool:
        """Give a reservation back; True when it was still held."""
        response = await self._router_call("Release", RouterServiceReleaseRequest(ticket=ticket), timeout_s)
        return bool(response.was_held)

    async def forget(self, tenant: str, user: str, timeout_s: float) -> RouterServiceForgetResponse:
        """Erase a user."""
        request = RouterServiceForgetRequest(tenant=tenant, user=user)
        return await self._router_call("Forget", request, timeout_s)

    async def close(self) -> None:
        """Close the channels; calls on their way end as unreachable, later ones do not begin."""
        await self._ended.close()
        self._is_closed = True
        await self._suspects.close()
        if self._direct is not None:
            await self._direct.close()
        await self._pool.close()

    def _note_ended(self, request: RankRequest, answer: RouterServiceRankResponse) -> None:
        """What a router does with each rank: one that was answered where its ticket points has consumed it."""
        if request.HasField("ticket") and answer.branch == Branch.BRANCH_TICKET and not request.bypass_psi:
            self._ended.put(request.ticket)

    async def _report_ended(self, tickets: list[Ticket], timeout_s: float) -> None:
        await self._router_call("ReportEnded", RouterServiceReportEndedRequest(tickets=tickets), timeout_s)

    async def _router_call(self, method: str, request: Any, timeout_s: float) -> Any:
        return await self._call(self._routers, RouterServiceStub, method, request, timeout_s)

    async def _rank_while_heard(self, message: RouterServiceRankRequest, address: str, timeout_s: float) -> Any:
        """Rank at this router; with others to ask, no longer than anything is heard of it.

        Raises:
            Unreachable: it is lost, or silent.
        """
        rank = self._call_at(address, self._routers, RouterServiceStub, "Rank", message, timeout_s)
        if not self._routers.has_others:
            return await rank
        patience = Patience(timeout_s * CHECK_AT, self._is_router_silent, (address, timeout_s * (LEAVE_AT - CHECK_AT)))
        try:
            return await rank
        except asyncio.CancelledError:
            if patience.has_ended_it:
                raise Unreachable(address, "no answer") from None
            raise
        finally:
            patience.close()

    async def _is_router_silent(self, subject: tuple[str, float]) -> bool:
        return await self._suspects.is_silent(self._routers, *subject)

    async def _call(self, peers: Peers, kind: Callable[[Any], Any], method: str, request: Any, timeout_s: float) -> Any:
        return await self._call_at(peers.current, peers, kind, method, request, timeout_s)

    async def _call_at(
        self, address: str, peers: Peers, kind: Callable[[Any], Any], method: str, request: Any, timeout_s: float
    ) -> Any:
        try:
            return await _called(getattr(self._stub(kind, address), method), request, timeout_s, address)
        except Unreachable:
            peers.lost(address)
            raise
        except DeadlineTooShort as error:
            if peers.has_others and not error.is_definite and not self._is_closed:
                self._suspects.look(peers, address)
            raise

    def _stub(self, kind: Callable[[Any], Any], address: str) -> Any:
        if self._is_closed:
            raise Unreachable(address, "the client is closed")
        return self._pool.stub(kind, address, _ROLES[kind])


def _left_s(end_s: float) -> float:
    return end_s - time.monotonic()


async def _called(method: Callable[..., Any], request: Any, timeout_s: float, peer: str) -> Any:
    if timeout_s <= 0:
        raise DeadlineTooShort()
    try:
        return await method(request, timeout=timeout_s)
    except grpc.aio.AioRpcError as error:
        raise error_of(error, peer) from error
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # Nobody cancelled the caller: the client was closed under the call.
        raise Unreachable(peer, "the client is closed") from None
