"""A server that does nothing: `python -m bench.router.hop --address HOST:PORT [--to HOST:PORT]`.

With `--to` it passes the bytes of each Rank on and the answer's back: the same server, channels and lanes as the
router's, and no message read, no ticket checked, nothing chosen. What the router takes beyond it is the router's own.
Without `--to` it stands for a ranker and answers at once.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from relaygr.rpc.channel import ChannelPool
from relaygr.rpc.deadline import child_timeout_s, remaining_ns
from relaygr.rpc.server import RpcServer, serve_until_signal
from relaygr.runtime.process import settle_memory, share_interpreter
from relaygr.telemetry import Telemetry
from relaygr.v1 import common_pb2, ranker_pb2

ROUTER_RANK = "/relaygr.v1.RouterService/Rank"
RANKER_RANK = "/relaygr.v1.RankerService/Rank"
_MARGIN_NS = 2_000_000
_LOGITS_BYTES = 2048
"""Of 256 candidates and two tasks."""

Handler = Callable[[bytes, grpc.aio.ServicerContext], Awaitable[bytes]]


def unread(raw: bytes) -> bytes:
    """Bytes as they are, in the place of a parser."""
    return raw


def answering() -> Handler:
    """A ranker's answer, the same for everybody."""
    answer = ranker_pb2.RankResponse(
        logits=bytes(_LOGITS_BYTES),
        tasks=["click", "like"],
        tier=ranker_pb2.TIER_DEVICE,
        load=common_pb2.Load(device_budget_bytes=1 << 30),
        instance_id="stub",
    ).SerializeToString()

    async def answered(raw: bytes, context: grpc.aio.ServicerContext) -> bytes:
        return answer

    return answered


def passing(pool: ChannelPool, address: str) -> Handler:
    """Each call becomes one to `address`."""
    rank = pool.get(address).unary_unary(RANKER_RANK, unread, unread)

    async def passed(raw: bytes, context: grpc.aio.ServicerContext) -> bytes:
        answer: bytes = await rank(raw, timeout=child_timeout_s(remaining_ns(context), _MARGIN_NS))
        return answer

    return passed


async def run(address: str, target: str) -> None:
    """Serve until a signal."""
    telemetry = Telemetry.setup("relaygr-hop", "hop", None, b"hop")
    pool = ChannelPool(telemetry)
    server = RpcServer(service_name="hop", address=address, telemetry=telemetry)
    path, handler = (ROUTER_RANK, passing(pool, target)) if target else (RANKER_RANK, answering())
    service, _, method = path[1:].rpartition("/")

    def add(_: Any, to: Any) -> None:
        methods = {method: grpc.unary_unary_rpc_method_handler(handler, unread, unread)}
        to.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
        to.add_registered_method_handlers(service, methods)

    server.add(add, None, service)
    await server.start()
    settle_memory()
    await serve_until_signal(server, _nothing)
    await pool.close()
    telemetry.shutdown()


async def _nothing() -> None:
    return None


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m bench.router.hop")
    parser.add_argument("--address", required=True, help="host:port to serve on")
    parser.add_argument("--to", default="", help="host:port to pass calls on to; without it they are answered")
    given = parser.parse_args()
    share_interpreter()
    asyncio.run(run(given.address, given.to))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
