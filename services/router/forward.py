"""A rank as it passes through: what routing reads of it, and its bytes, which go on as they came.

Candidates and an inline history are most of a rank and nothing that a router asks for. Parsed and written again they
would cost more than everything that is decided here. What cannot be read of them the ranker refuses, in the words in
which it would be refused here.

Source: protos/relaygr/v1/forward.proto.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grpc

from relaygr.v1.forward_pb2 import ForwardedRank, ForwardedRankAnswer, RankHead
from relaygr.v1.ranker_pb2 import RankRequest
from relaygr.v1.router_pb2 import Branch as BranchMessage
from relaygr.v1.router_pb2_grpc import add_RouterServiceServicer_to_server
from services.router.core.binding import Branch

_BRANCHES: dict[Branch, Any] = {branch: BranchMessage.Value(f"BRANCH_{branch.value}") for branch in Branch}


@dataclass(slots=True)
class RankCall:
    """A rank on its way in."""

    head: RankHead | RankRequest
    """What routing reads, which a whole request has, too."""
    raw: bytes
    """The serialized RankRequest."""


@dataclass(slots=True)
class Ranked:
    """A rank's answer and how it was got."""

    raw: bytes
    """The serialized RankResponse."""
    branch: Branch
    attempts: int


def rank_call_of(message: bytes) -> RankCall:
    """Read a serialized RouterServiceRankRequest.

    Raises:
        DecodeError: what is read of it cannot be.
    """
    parts = ForwardedRank.FromString(message).rank
    raw = parts[0] if len(parts) == 1 else b"".join(parts)
    return RankCall(RankHead.FromString(raw), raw)


def answer_of_rank(ranked: Ranked) -> bytes:
    """The serialized RouterServiceRankResponse."""
    answer = ForwardedRankAnswer(rank=ranked.raw, branch=_BRANCHES[ranked.branch], attempts=ranked.attempts)
    return answer.SerializeToString()


def add_router_service(servicer: Any, server: Any) -> None:
    """As the generated function, but `Rank` takes a RankCall and answers with Ranked."""
    add_RouterServiceServicer_to_server(servicer, _Forwarding(server))


class _Forwarding:
    """Takes the generated handlers as a server does, and gives them to it with another `Rank`."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Nothing to do: generated code registers each method too, and registered methods are found first."""

    def add_registered_method_handlers(self, service: str, methods: Mapping[str, grpc.RpcMethodHandler]) -> None:
        """Serve the service's methods."""
        rank = grpc.unary_unary_rpc_method_handler(methods["Rank"].unary_unary, rank_call_of, answer_of_rank)
        self._server.add_registered_method_handlers(service, {**methods, "Rank": rank})
