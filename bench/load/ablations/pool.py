"""Starts a pool of psi in memory of its own: `python -m bench.load.ablations.pool`.

It stands where the expander does and takes its settings, RELAYGR_EXPANDER_*: the address and
the byte budget; the rest has no meaning here. Rankers store into it and fetch from it over
gRPC, from wherever they are. The entry that was asked for longest ago goes first.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc

from bench.load.ablations import pool_wire as wire
from relaygr.config import describe, load
from relaygr.rpc.server import RpcServer, serve_until_signal
from relaygr.runtime.logs import configure_logging
from relaygr.telemetry import Telemetry
from relaygr.v1.expander_pb2 import EntryContent
from services.expander.config import ExpanderConfig

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """One psi: its chunks as they came, and what they are."""

    chunks: tuple[bytes, ...]
    content: bytes
    length_bytes: int


class Pool:
    """Entries by key within a byte budget, least recently asked for first to go."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        self._used_bytes = 0
        self._counts: Counter[str] = Counter()

    def put(self, key: bytes, entry: Entry) -> bool:
        """Keep an entry in place of an earlier one; False when it is larger than the pool."""
        if entry.length_bytes > self._bytes_max:
            self._counts["stores_refused"] += 1
            return False
        self._drop(key)
        while self._used_bytes + entry.length_bytes > self._bytes_max:
            self._drop(next(iter(self._entries)))
            self._counts["evicted"] += 1
        self._entries[key] = entry
        self._used_bytes += entry.length_bytes
        self._count("stores", entry)
        return True

    def find(self, key: bytes) -> Entry | None:
        """The entry, and it is the last to go now."""
        entry = self._entries.get(key)
        self._counts["lookups"] += 1
        if entry is not None:
            self._entries.move_to_end(key)
            self._counts["lookup_hits"] += 1
        return entry

    def take(self, key: bytes) -> Entry | None:
        """The entry, to be sent."""
        entry = self._entries.get(key)
        if entry is not None:
            self._count("fetches", entry)
        return entry

    def forget(self, prefix: bytes) -> int:
        """Drop all entries whose keys begin so; how many."""
        found = [key for key in self._entries if key.startswith(prefix)]
        for key in found:
            self._drop(key)
        return len(found)

    def counters(self) -> dict[str, int]:
        """What is held and what was done."""
        return {"entries": len(self._entries), "used_bytes": self._used_bytes, **self._counts}

    def _count(self, what: str, entry: Entry) -> None:
        self._counts[what] += 1
        self._counts[f"{what}_bytes"] += entry.length_bytes

    def _drop(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._used_bytes -= entry.length_bytes


class PoolService:
    """The pool's edge; see pool_wire."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def lookup(self, key: bytes, context: grpc.aio.ServicerContext) -> bytes:
        """What is there under a key."""
        entry = self._pool.find(key)
        return entry.content if entry is not None else b""

    async def fetch(self, key: bytes, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        """Its bytes."""
        entry = self._pool.take(key)
        for chunk in entry.chunks if entry is not None else ():
            yield chunk

    async def store(self, messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> bytes:
        """Keep what comes, once it has come whole."""
        key, *chunks, content = [message async for message in messages]
        entry = Entry(tuple(chunks), content, sum(map(len, chunks)))
        is_whole = EntryContent.FromString(content).length_bytes == entry.length_bytes
        return wire.STORED if is_whole and self._pool.put(key, entry) else b""

    async def forget(self, prefix: bytes, context: grpc.aio.ServicerContext) -> bytes:
        """Drop a user's; how many, in decimal."""
        return str(self._pool.forget(prefix)).encode()

    async def counters(self, nothing: bytes, context: grpc.aio.ServicerContext) -> bytes:
        """As JSON."""
        return json.dumps(self._pool.counters()).encode()


def add_to_server(service: PoolService, server: grpc.aio.Server) -> None:
    """Serve the pool's methods; bytes stay bytes."""
    unary: dict[str, Any] = {"request_deserializer": bytes}
    methods = {
        "Lookup": grpc.unary_unary_rpc_method_handler(service.lookup, **unary),
        "Fetch": grpc.unary_stream_rpc_method_handler(service.fetch),
        "Store": grpc.stream_unary_rpc_method_handler(service.store),
        "Forget": grpc.unary_unary_rpc_method_handler(service.forget, **unary),
        "Counters": grpc.unary_unary_rpc_method_handler(service.counters, **unary),
    }
    server.add_registered_method_handlers(wire.SERVICE, methods)


async def serve(config: ExpanderConfig) -> None:
    """Serve until SIGTERM or SIGINT."""
    telemetry = Telemetry.setup("relaygr-pool", config.expander_id, config.otlp_endpoint, config.user_hash_key)
    server = RpcServer(service_name="pool", address=config.address, telemetry=telemetry)
    server.add(add_to_server, PoolService(Pool(config.segment_bytes)), wire.SERVICE)
    try:
        await server.start()
        await serve_until_signal(server, _nothing)
    finally:
        telemetry.shutdown()


async def _nothing() -> None:
    return


def main() -> None:
    """Read the environment and serve."""
    config = load(ExpanderConfig, "RELAYGR_EXPANDER", os.environ)
    configure_logging("pool", config.log_level)
    _log.info("config %s", describe(config))
    asyncio.run(serve(config))


if __name__ == "__main__":
    main()
