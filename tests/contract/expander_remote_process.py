"""A caller of an expander's streams that stops half-way, to be killed: `address fetch|store`."""

from __future__ import annotations

import asyncio
import sys

from relaygr.rpc.channel import ChannelPool
from relaygr.telemetry import Telemetry
from relaygr.v1.transfer_pb2_grpc import TransferServiceStub
from tests.contract.remote_world import FIND, TAKE, begin_of, chunk_of


async def main(address: str, what: str) -> None:
    telemetry, _ = Telemetry.for_tests()
    stub = TransferServiceStub(ChannelPool(telemetry).get(address))
    if what == "fetch":
        fetch = stub.Fetch(timeout=60)
        await fetch.write(FIND)
        assert (await fetch.read()).begin.found
        await fetch.write(TAKE)
        await fetch.read()
    else:
        store = stub.Store(timeout=60)
        await store.write(begin_of(bytes(20_000)))
        await store.read()
        await store.write(chunk_of(bytes(10_000)))
    sys.stdout.write('["half-way", null]\n')
    sys.stdout.flush()
    await asyncio.sleep(60)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
