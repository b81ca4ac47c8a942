"""Calls to rankers: one channel per address, each call with a timeout, faults as errors."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2, health_pb2_grpc

from relaygr.errors import PeerFailed, RelayError, Unreachable
from relaygr.rpc.channel import ChannelPool
from relaygr.rpc.status import error_of
from relaygr.v1 import common_pb2, ranker_pb2, ranker_pb2_grpc
from services.router.core.load import Queues
from services.router.forward import RankCall

Response = TypeVar("Response")
_RANK = "/relaygr.v1.RankerService/Rank"


class ForwardingStub:
    """Ranks as bytes, both ways."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.Rank: Callable[..., Awaitable[bytes]] = channel.unary_unary(_RANK, _unread, _unread)


class Rankers:
    """The rankers, by address. Raises RelayError only."""

    def __init__(self, pool: ChannelPool) -> None:
        self._pool = pool

    def rank(self, address: str, request: RankCall, timeout_s: float) -> Awaitable[bytes]:
        """Score candidates; answers with a serialized RankResponse."""
        stub = self._pool.stub(ForwardingStub, address)
        return answer_of(stub.Rank(request.raw, timeout=timeout_s), address)

    async def pre_infer(
        self, address: str, request: ranker_pb2.PreInferRequest, timeout_s: float
    ) -> ranker_pb2.PreInferResponse:
        """Start a production."""
        return await answer_of(self._stub(address).PreInfer(request, timeout=timeout_s), address)

    async def release(
        self, address: str, request: ranker_pb2.ReleaseRequest, timeout_s: float
    ) -> ranker_pb2.ReleaseResponse:
        """End a reservation."""
        return await answer_of(self._stub(address).Release(request, timeout=timeout_s), address)

    async def forget(
        self, address: str, request: ranker_pb2.ForgetRequest, timeout_s: float
    ) -> ranker_pb2.ForgetResponse:
        """Erase a user."""
        return await answer_of(self._stub(address).Forget(request, timeout=timeout_s), address)

    async def is_serving(self, address: str, timeout_s: float) -> bool:
        """True when the standard health service says so; False when it says nothing."""
        return await self._health(address, timeout_s) == health_pb2.HealthCheckResponse.SERVING

    async def is_alive(self, address: str, timeout_s: float) -> bool:
        """True when the standard health service says anything: who leaves still ends what it began."""
        return await self._health(address, timeout_s) is not None

    async def forget_peer(self, address: str) -> None:
        """Close what is open to an address; calls in progress end as unreachable."""
        await self._pool.close(address)

    async def close(self) -> None:
        """Close all channels."""
        await self._pool.close()

    async def _health(self, address: str, timeout_s: float) -> int | None:
        try:
            stub = self._pool.stub(health_pb2_grpc.HealthStub, address)
            answer = await answer_of(stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s), address)
        except RelayError:
            return None
        return int(answer.status)

    def _stub(self, address: str) -> ranker_pb2_grpc.RankerServiceStub:
        return self._pool.stub(ranker_pb2_grpc.RankerServiceStub, address)


def queues_of(load: common_pb2.Load) -> Queues:
    """A reply's load, for the core."""
    return Queues(
        rank_jobs=load.rank_jobs,
        full_jobs=load.full_jobs,
        pre_infer_jobs=load.pre_infer_jobs,
        backlog_ns=load.backlog_ns,
        device_used_bytes=load.device_used_bytes,
        device_budget_bytes=load.device_budget_bytes,
        rank_rate_hz=max(0.0, load.rank_rate_hz),
        aside_ns=load.aside_ns,
    )


def _unread(raw: bytes) -> bytes:
    return raw


async def answer_of(call: Awaitable[Response], address: str) -> Response:
    """What a call answers; its faults as errors.

    Raises:
        RelayError: names the address.
    """
    try:
        answer = await call
        if answer is None:
            # What gRPC makes of bytes that are no message; a lane says so itself.
            raise PeerFailed(address, "its answer cannot be parsed")
        return answer
    except DecodeError:
        raise PeerFailed(address, "its answer cannot be parsed") from None
    except grpc.aio.AioRpcError as error:
        raise error_of(error, address) from error
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # Nobody cancelled us: the channel was closed under the call.
        raise Unreachable(address, "the channel was closed") from None
