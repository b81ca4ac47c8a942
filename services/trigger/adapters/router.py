"""The router as the trigger sees it: where a user is bound, and a way to send a pre-infer."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import grpc
from google.protobuf.message import DecodeError

from relaygr.domain.identity import ModelIdentity, ModelLimits, UserKey
from relaygr.errors import InvalidRequest, PeerFailed, RelayError, Unreachable
from relaygr.rpc.channel import ChannelPool
from relaygr.rpc.deadline import child_timeout_s
from relaygr.rpc.identity import cost_from_pb, feedback_from_pb, limits_from_pb, model_from_pb
from relaygr.rpc.peers import Peers
from relaygr.rpc.status import error_of
from relaygr.runtime.logs import next_step
from relaygr.v1.common_pb2 import History, Ticket
from relaygr.v1.ranker_pb2 import PreInferRequest, PreInferResponse
from relaygr.v1.router_pb2 import ResolveRequest, ResolveResponse, RouterServicePreInferRequest
from relaygr.v1.router_pb2_grpc import RouterServiceStub
from services.trigger.core.events import InstanceView

_log = logging.getLogger(__name__)

OWN_WORK_NS = 1_000_000
"""Kept back of a caller's deadline for deciding and answering."""
_COST_END = 1e18
"""As records in the registry have it, where such numbers come from."""
_RATE_HZ_MAX = 1e9
_EXPECTED_NS_MAX = 1 << 62
"""A prediction is made before the model's limits are known to hold, so it may be absurd."""


@dataclass(frozen=True, slots=True)
class Binding:
    """Where a user is bound."""

    instance: InstanceView
    model: ModelIdentity
    limits: ModelLimits
    ended_ticket_ids: tuple[str, ...] = ()
    """Of this trigger's, since the last answer."""


class RouterClient:
    """Calls of a router, of the next one once it is lost; each with a timeout.

    `trigger_id` is whose tickets are asked after.
    """

    def __init__(
        self,
        pool: ChannelPool,
        addresses: str,
        resolve_timeout_ns: int,
        pre_infer_timeout_ns: int,
        *,
        trigger_id: str = "",
    ):
        self._pool = pool
        self._trigger_id = trigger_id
        self._routers = Peers(addresses)
        self._resolve_timeout_ns = resolve_timeout_ns
        self._pre_infer_timeout_ns = pre_infer_timeout_ns

    @property
    def trigger_id(self) -> str:
        """Goes into tickets, so that their end is told."""
        return self._trigger_id

    async def resolve(
        self,
        user: UserKey,
        *,
        expected_ns: int,
        rank_on_psi_ns: int,
        will_admit: bool,
        window_ns: int,
        remaining_ns: int,
    ) -> Binding | None:
        """Where the user is bound; None when no instance is known or the router gives no answer.

        Raises:
            InvalidRequest: the router refuses the user.
        """
        request = ResolveRequest(
            tenant=user.tenant,
            user=user.user,
            expected_ns=min(expected_ns, _EXPECTED_NS_MAX),
            will_admit=will_admit,
            window_ns=window_ns,
            rank_on_psi_ns=min(rank_on_psi_ns, _EXPECTED_NS_MAX),
            trigger_id=self._trigger_id,
        )
        address = self._routers.current
        try:
            timeout_s = child_timeout_s(min(self._resolve_timeout_ns, remaining_ns - OWN_WORK_NS), 0)
            stub = self._pool.stub(RouterServiceStub, address)
            return _binding_of(await stub.Resolve(request, timeout=timeout_s))
        except DecodeError:
            return None
        except grpc.aio.AioRpcError as error:
            fault = error_of(error, address)
            if isinstance(fault, InvalidRequest):
                raise fault from error
            # Also one that is too slow: a stopped process is noticed no other way for seconds.
            self._routers.lost(address)
            return None
        except InvalidRequest:
            raise
        except RelayError:
            return None

    async def pre_infer(self, ticket: Ticket, history: History, window_ns: int) -> PreInferResponse:
        """Send a pre-infer on and learn whether it was accepted.

        Raises:
            RelayError: no answer, or a refusal of the router.
        """
        request = RouterServicePreInferRequest(pre_infer=PreInferRequest(ticket=ticket, history=history))
        timeout_s = child_timeout_s(min(self._pre_infer_timeout_ns, window_ns), 0)
        address = self._routers.current
        try:
            stub = self._pool.stub(RouterServiceStub, address)
            response = await stub.PreInfer(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            fault = error_of(error, address)
            if isinstance(fault, Unreachable):
                self._routers.lost(address)
            raise fault from error
        except DecodeError:
            response = None
        if response is None:
            raise PeerFailed(address, "its answer cannot be parsed")
        return response.pre_infer


def _binding_of(response: ResolveResponse | None) -> Binding | None:
    # What gRPC makes of bytes that are no message is None; a lane raises.
    if response is None or not response.instance_id:
        return None
    if not _can_be_reckoned_with(response):
        step = next_step("find out what registered this instance in etcd; until then its users rank without a ticket")
        _log.warning("what the router says of instance %s cannot be", response.instance_id, extra=step)
        return None
    instance = InstanceView(
        instance_id=response.instance_id,
        epoch=response.instance_epoch,
        cost=cost_from_pb(response.cost),
        device_budget_bytes=response.load.device_budget_bytes,
        backlog_ns=response.load.backlog_ns,
        rank_rate_hz=min(max(0.0, response.rank_rate_hz), _RATE_HZ_MAX),
        trigger_count=max(1, response.trigger_count),
        feedback=feedback_from_pb(response.feedback) if response.HasField("feedback") else None,
    )
    ended_ids = tuple(response.ended_ticket_ids)
    return Binding(instance, model_from_pb(response.model), limits_from_pb(response.limits), ended_ids)


def _can_be_reckoned_with(response: ResolveResponse) -> bool:
    """False for what no instance is like, and what would stay in every mean that it once went into."""
    cost, limits = response.cost, response.limits
    times = (cost.fixed_ns, cost.token_ns, cost.pair_ns, cost.reload_fixed_ns, cost.reload_byte_ns, cost.relative_error)
    if not all(0 <= each < _COST_END for each in times) or not cost.token_bytes:
        return False
    return 0 < limits.window_step_behaviours <= limits.window_behaviours_max
