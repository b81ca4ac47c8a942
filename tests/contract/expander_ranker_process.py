"""A ranker's DRAM tier as a process: JSON commands on standard input, JSON lines on standard output."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import numpy as np

from relaygr.rpc.channel import ChannelPool
from relaygr.telemetry import Telemetry
from services.ranker.adapters import dram, dram_copier
from tests.contract.expander_world import MODEL, empty, key_of, pages_of, same, stored, until

GARBAGE = 0xEE


def say(kind: str, value: Any = None) -> None:
    sys.stdout.write(json.dumps([kind, value]) + "\n")
    sys.stdout.flush()


def stall(writing_s: float) -> None:
    """Make copies go on writing garbage into the granted blocks for so long, whatever happens meanwhile."""
    real = dram_copier.move

    def slow(transfer: Any, should_stop: Any) -> bool:
        if not transfer.is_store:
            return real(transfer, should_stop)
        blocks, segment = transfer.blocks, transfer.segment
        say("copying", list(blocks))
        end = time.monotonic() + writing_s
        while time.monotonic() < end:
            for block in blocks:
                np.copyto(segment.block(block), GARBAGE)
            time.sleep(0.001)
        return real(transfer, should_stop)

    dram_copier.move = slow


async def obey(tier: dram.DramTier, command: dict[str, Any]) -> None:
    match command:
        case {"do": "store", "user": user, "seed": seed}:
            say("stored", await stored(tier, key_of(user), pages_of(seed)))
        case {"do": "stall", "writing_s": writing_s}:
            stall(writing_s)
        case {"do": "load", "user": user, "seed": seed}:
            hit, pages = await tier.lookup(key_of(user)), empty()
            ok = hit is not None and await tier.load(hit, pages)
            say("loaded", ok and same(pages, pages_of(seed)))
        case {"do": "wait_until_attached"}:
            await until(lambda: tier.is_attached)
            say("attached")


async def main(address: str, owner: str) -> None:
    telemetry, _ = Telemetry.for_tests()
    channels = ChannelPool(telemetry)
    tier = dram.DramTier(address, channels, owner, 1, MODEL, call_timeout_s=2.0)
    tier.start()
    await until(lambda: tier.is_attached)
    say("attached")
    while line := await asyncio.to_thread(sys.stdin.readline):
        await obey(tier, json.loads(line))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
