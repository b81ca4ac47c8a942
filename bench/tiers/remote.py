"""What one reload and one store take from an expander on another host, beside the same through shared memory.

Both hosts are this machine, joined by loopback, so this is what the streams cost beside the network: a link adds its
round trips (three a reload) and its bytes. In turns, on the same expander, with keys of their own.

Source: design, section 3 (expander).
"""

from __future__ import annotations

import asyncio
import statistics
import time
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from bench.tiers.steps import DIGEST, MIB, MODEL, Pages, attached, expander_and_tier, pages_of
from relaygr.domain.identity import PsiKey, UserKey
from services.ranker.adapters.dram import DramTier
from services.ranker.adapters.dram_remote import RemoteDramTier
from services.ranker.adapters.dram_remote_reach import RemoteCost

SIZES_MIB = (1, 4, 8, 16, 32)
ROUNDS = 9
TIMEOUT_S = 10.0
"""Of each step here; a busy machine must not end the measurement."""


@dataclass
class Fetched:
    """Seconds of each round at one size."""

    bytes: int
    fetch_s: list[float] = field(default_factory=list)
    send_s: list[float] = field(default_factory=list)
    reload_s: list[float] = field(default_factory=list)

    def to_json(self) -> dict[str, float]:
        """Medians; `fetch_per_reload` is how many times as long as through shared memory."""
        fetch_s, send_s, reload_s = (statistics.median(one) for one in (self.fetch_s, self.send_s, self.reload_s))
        return {
            "fetch_ms": round(1e3 * fetch_s, 3),
            "fetch_gbps": round(self.bytes / fetch_s / 1e9, 2),
            "send_gbps": round(self.bytes / send_s / 1e9, 2),
            "reload_ms": round(1e3 * reload_s, 3),
            "fetch_per_reload": round(fetch_s / reload_s, 1),
        }


def measure_remote() -> dict[str, object]:
    """By size in MiB, and what a ranker that attaches is told of the way."""
    return asyncio.run(_measure())


async def _measure() -> dict[str, object]:
    costs: list[RemoteCost] = []
    async with expander_and_tier() as (address, local), _remote(address, costs) as remote:
        sizes = {str(mib): (await _sized(remote, local, mib * MIB)).to_json() for mib in SIZES_MIB}
    return {
        "probe": {"fixed_ms": round(costs[0].fixed_ns / 1e6, 3), "byte_ns": round(costs[0].byte_ns, 3)},
        "sizes": sizes,
    }


async def _sized(remote: RemoteDramTier, local: DramTier, size_bytes: int) -> Fetched:
    found = Fetched(size_bytes)
    source, target = pages_of(size_bytes, 1), pages_of(size_bytes, 2)
    for number in range(ROUNDS + 1):
        key = PsiKey(UserKey("default", f"remote-{size_bytes}-{number}"), MODEL.key, 0)
        begun_s = time.perf_counter()
        assert await remote.store(key, 128, DIGEST, source), "a store was refused"
        sent_s = time.perf_counter()
        await _load(remote, key, target)
        fetched_s = time.perf_counter()
        await _load(local, key, target)
        reloaded_s = time.perf_counter()
        if number:
            # The first round faults pages in.
            found.send_s.append(sent_s - begun_s)
            found.fetch_s.append(fetched_s - sent_s)
            found.reload_s.append(reloaded_s - fetched_s)
    return found


async def _load(tier: DramTier | RemoteDramTier, key: PsiKey, target: Pages) -> None:
    hit = await tier.lookup(key)
    assert hit is not None and await tier.load(hit, target), "what was stored was not found"  # type: ignore[arg-type]


def _remote(address: str, costs: list[RemoteCost]) -> AbstractAsyncContextManager[RemoteDramTier]:
    return attached(
        lambda channels: RemoteDramTier(
            address,
            channels,
            "remote",
            1,
            MODEL,
            on_measured=costs.append,
            lookup_timeout_s=TIMEOUT_S,
            fetch_timeout_s=TIMEOUT_S,
            store_timeout_s=TIMEOUT_S,
        )
    )
