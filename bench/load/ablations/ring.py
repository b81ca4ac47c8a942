"""Affinity as gRPC itself has it: a ring hash keyed by a request header, without a bound on load.

Theory of operation. One channel leads to all instances. Its policy hashes the header named
by the service config and takes the next instance on the ring, so PreInfer and Rank of a user
meet without a table of ours. A ticket must name that instance before either call is made:
the ring is asked once by a Describe under the same header, and the answer is kept until the
instances change.

Source: gRFC A42 (ring hash) and A76 (the hash key in a header).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import OrderedDict
from collections.abc import Awaitable, Collection, Iterable
from typing import Any

import grpc

from relaygr.domain.identity import UserKey
from relaygr.errors import RelayError, Unreachable
from relaygr.rpc.channel import ChannelPool, channel_options
from relaygr.rpc.identity import user_key_of
from relaygr.rpc.tickets import decode_ticket
from relaygr.rpc.traced_channel import TracedChannel
from relaygr.telemetry import Telemetry
from relaygr.v1 import ranker_pb2, ranker_pb2_grpc, router_pb2
from services.router.adapters.rankers import ForwardingStub, Rankers, answer_of
from services.router.core.binding import Binding, Branch, Subject
from services.router.core.membership import Member
from services.router.forward import RankCall, Ranked
from services.router.service import RouterService

HEADER = "x-user-hash"
PLACED_MAX = 65_536
"""Users whose instance is remembered; as many as the router's pins."""
ASK_TIMEOUT_S = 1.0
OLD_CALLS_S = 5.0
"""Calls on a ring of former instances have this long to end."""
_SERVICE_CONFIG = json.dumps({"loadBalancingConfig": [{"ring_hash_experimental": {"requestHashHeader": HEADER}}]})
_NAME = "ring"


class Ring:
    """The channel over all instances, and whom it led where. Belongs to one event loop."""

    def __init__(self, telemetry: Telemetry, *, placed_max: int = PLACED_MAX) -> None:
        self._telemetry = telemetry
        self._placed_max = placed_max
        self._members: Iterable[Member] = ()
        self._addresses: tuple[str, ...] = ()
        self._channel: TracedChannel | None = None
        self._placed: OrderedDict[str, str] = OrderedDict()
        self._closing: set[asyncio.Task[None]] = set()

    def watch(self, members: Iterable[Member]) -> None:
        """Whose addresses the ring holds; looked at anew with each call."""
        self._members = members

    def channel(self) -> TracedChannel:
        """To all instances; calls need `header_of` as metadata.

        Raises:
            Unreachable: there are no instances.
        """
        addresses = tuple(sorted(member.record.address for member in self._members))
        if addresses != self._addresses:
            self._renew(addresses)
        if self._channel is None:
            raise Unreachable(_NAME, "no ranker is known")
        return self._channel

    def stub(self) -> ranker_pb2_grpc.RankerServiceStub:
        """Calls by the ring.

        Raises:
            Unreachable: there are no instances.
        """
        return ranker_pb2_grpc.RankerServiceStub(self.channel())

    def instance_of(self, user_hash: str) -> str | None:
        """Where the ring leads a user, if it was asked."""
        return self._placed.get(user_hash)

    async def ask(self, user_hash: str) -> None:
        """See to it that `instance_of` knows.

        Raises:
            RelayError: the ring leads to nobody who answers.
        """
        stub = self.stub()
        if user_hash in self._placed:
            self._placed.move_to_end(user_hash)
            return
        addresses = self._addresses
        call = stub.Describe(ranker_pb2.DescribeRequest(), timeout=ASK_TIMEOUT_S, metadata=header_of(user_hash))
        described = await answer_of(call, _NAME)
        if addresses == self._addresses:
            self._placed[user_hash] = described.instance_id
            while len(self._placed) > self._placed_max:
                self._placed.popitem(last=False)

    async def close(self) -> None:
        """Close the channel."""
        self._renew(())
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _renew(self, addresses: tuple[str, ...]) -> None:
        """Another ring for other instances."""
        if self._channel is not None:
            task = asyncio.get_running_loop().create_task(self._channel.close(OLD_CALLS_S))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        self._placed.clear()
        self._addresses = addresses
        self._channel = None
        if addresses:
            channel = grpc.aio.insecure_channel(
                f"ipv4:{','.join(addresses)}",
                options=[*channel_options(), ("grpc.service_config", _SERVICE_CONFIG)],
            )
            self._channel = TracedChannel(channel, self._telemetry, _NAME)


class RingRankers(Rankers):
    """PreInfer and Rank by the ring, whatever address they were given; all else by address."""

    def __init__(self, pool: ChannelPool, *, ring: Ring, ticket_key: bytes) -> None:
        super().__init__(pool)
        self._ring = ring
        self._ticket_key = ticket_key

    def rank(self, address: str, request: RankCall, timeout_s: float) -> Awaitable[bytes]:
        """Score candidates."""
        header = self._header_of(request.head.tenant, request.head.user)
        return answer_of(
            ForwardingStub(self._ring.channel()).Rank(request.raw, timeout=timeout_s, metadata=header), address
        )

    async def pre_infer(
        self, address: str, request: ranker_pb2.PreInferRequest, timeout_s: float
    ) -> ranker_pb2.PreInferResponse:
        """Start a production."""
        claims = decode_ticket(request.ticket, self._ticket_key)
        header = self._header_of(claims.tenant, claims.user)
        return await answer_of(self._ring.stub().PreInfer(request, timeout=timeout_s, metadata=header), address)

    async def close(self) -> None:
        """Close all channels."""
        await self._ring.close()
        await super().close()

    def _header_of(self, tenant: str, user: str) -> tuple[tuple[str, str], ...]:
        key: UserKey = user_key_of(tenant, user)
        return header_of(key.hashed(self._ticket_key))


class RingBinding(Binding):
    """Takes the ring's word for where a user is; nobody spills and nobody is pinned."""

    def __init__(self, *, ring: Ring, **limits: Any) -> None:
        super().__init__(**limits)
        self._ring = ring
        ring.watch(self.members)

    def _choose(
        self, subject: Subject, model_key: str, tried: Collection[str], now_ns: int, *, may_spill: bool
    ) -> tuple[Member | None, Branch]:
        able = {member.record.instance_id: member for member in self.candidates(model_key, tried)}
        named = able.get(self._ring.instance_of(subject.user_hash) or "")
        if named is not None:
            return named, Branch.SLOT
        # The ring was not asked or its instance is gone. This choice is only whose load is counted.
        return super()._choose(subject, model_key, tried, now_ns, may_spill=False)

    def _lighter(self, subject: Subject, model_key: str, owner: Member, now_ns: int) -> tuple[Member, Branch]:
        return owner, Branch.SLOT


class RingService(RouterService):
    """Asks the ring before the core chooses."""

    def __init__(self, *arguments: Any, ring: Ring, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._ring = ring

    async def Resolve(
        self, request: router_pb2.ResolveRequest, context: grpc.aio.ServicerContext
    ) -> router_pb2.ResolveResponse:
        """Place a user where the ring will lead its calls."""
        await self._ring.ask(self._subject(user_key_of(request.tenant, request.user)).user_hash)
        return await super().Resolve(request, context)

    async def Rank(self, request: RankCall, context: grpc.aio.ServicerContext) -> Ranked:
        """Forward a rank by the ring; whoever is not known yet is asked for first, so that load is counted right."""
        with contextlib.suppress(RelayError):
            await self._ring.ask(self._subject(user_key_of(request.head.tenant, request.head.user)).user_hash)
        return await super().Rank(request, context)


def header_of(user_hash: str) -> tuple[tuple[str, str], ...]:
    """Metadata by which the ring chooses."""
    return ((HEADER, user_hash),)
