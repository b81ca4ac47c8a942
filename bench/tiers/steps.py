"""What one reload, one store and the control calls take, against a copy of the same bytes in the same run.

A real expander in a process of its own, two rankers' ways to it in this one. A reload is all of it, from the lookup to
the last byte verified: copy, digest and generations. One ranker reloads what it stored itself and remembers (`reload`);
one that knows nothing asks first, with the call that looks up and pins (`asked`), as it does for a user who was moved
here. The copies are numpy's, one call a page, between pages of this process, in turns with the reloads.

A reload reads blocks that were stored past the processor's caches, so what it is held to is a copy of equally cold
bytes: the next run of a pool larger than the last level of cache. A copy between the same two buffers again and again,
which up to a few MiB never leaves the caches, stands beside it (`cached`).

Source: design, section 3 (expander).
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from demo.cluster import free_addresses, is_serving
from demo.processes import ProcessSpec, Supervisor
from relaygr.domain.identity import ModelIdentity, PsiKey, UserKey
from relaygr.rpc.channel import ChannelPool
from relaygr.telemetry import Telemetry
from services.ranker.adapters.dram import DramTier
from services.ranker.adapters.dram_remote import RemoteDramTier

MIB = 1024 * 1024
SIZES_MIB = (1, 4, 8, 16, 32, 64)
PAGE_BYTES = MIB
"""Of a page of K/V: 128 tokens of a model of 8 KiB a token."""
SEGMENT_BYTES = 768 * MIB
COLD_BYTES = 512 * MIB
"""Of the pool that cold copies read: far more than a last level of cache."""
ROUNDS = 25
CONTROL_ROUNDS = 200
CONTROL_BYTES = 4096
REST_S = 0.002
MODEL = ModelIdentity("tiers", "1", "ab" * 32, "bfloat16", "paged128", 1024)
DIGEST = b"0123456789abcdef"
ATTACH_S = 10.0
CALL_TIMEOUT_S = 1.0
"""Of control calls here; a busy machine must not end the measurement."""

Pages = list[NDArray[np.uint8]]
T = TypeVar("T", DramTier, RemoteDramTier)


@dataclass
class Sized:
    """Seconds of each round at one size."""

    bytes: int
    reload_s: list[float] = field(default_factory=list)
    asked_s: list[float] = field(default_factory=list)
    cold_copy_s: list[float] = field(default_factory=list)
    cached_copy_s: list[float] = field(default_factory=list)
    store_s: list[float] = field(default_factory=list)

    def to_json(self) -> dict[str, float]:
        """Medians; a `reload_per_memcpy` above 1 is faster than a copy."""
        reload_s, asked_s = statistics.median(self.reload_s), statistics.median(self.asked_s)
        store_s = statistics.median(self.store_s)
        cold_s, cached_s = statistics.median(self.cold_copy_s), statistics.median(self.cached_copy_s)
        return {
            "reload_ms": round(1e3 * reload_s, 3),
            "reload_p99_ms": round(1e3 * float(np.quantile(self.reload_s, 0.99)), 3),
            "reload_gbps": round(self.bytes / reload_s / 1e9, 2),
            "asked_ms": round(1e3 * asked_s, 3),
            "asked_gbps": round(self.bytes / asked_s / 1e9, 2),
            "memcpy_gbps": round(self.bytes / cold_s / 1e9, 2),
            "memcpy_cached_gbps": round(self.bytes / cached_s / 1e9, 2),
            "reload_per_memcpy": round(cold_s / reload_s, 3),
            "asked_per_memcpy": round(cold_s / asked_s, 3),
            "reload_per_memcpy_cached": round(cached_s / reload_s, 3),
            "store_gbps": round(self.bytes / store_s / 1e9, 2),
        }


class ColdPool:
    """Bytes that no cache holds: read in turns, each run long after it was last touched.

    Args:
        size_bytes: of the pool, a multiple of `PAGE_BYTES`.
    """

    def __init__(self, size_bytes: int = COLD_BYTES) -> None:
        # Written, or every page would be the kernel's one page of zeros.
        self._pages = [np.full(PAGE_BYTES, number % 251, np.uint8) for number in range(size_bytes // PAGE_BYTES)]
        self._next = 0

    def take(self, like: Pages) -> Pages:
        """The next run of pages, as long as these are."""
        taken = []
        for page in like:
            taken.append(self._pages[self._next][: page.nbytes])
            self._next = (self._next + 1) % len(self._pages)
        return taken


def measure_steps() -> dict[str, object]:
    """By size in MiB, and the control calls alone."""
    return asyncio.run(_measure())


async def _measure() -> dict[str, object]:
    async with expander_and_tier() as (address, tier), tier_at(address, "asking", known_max=0) as asking:
        control_ms = await _control_ms(asking)
        pool = ColdPool()
        sizes = {str(mib): (await _sized(tier, asking, mib * MIB, pool)).to_json() for mib in SIZES_MIB}
    return {"control_ms": control_ms, "sizes": sizes}


async def _sized(tier: DramTier, asking: DramTier, size_bytes: int, pool: ColdPool) -> Sized:
    """Store, reload and copy in turns; every reload has a key of its own, so that each store is a store."""
    found = Sized(size_bytes)
    source, target, target_of_copies = (pages_of(size_bytes, seed) for seed in (1, 2, 3))
    for number in range(ROUNDS + 1):
        own, others = (
            PsiKey(UserKey("default", f"{whose}-{size_bytes}-{number}"), MODEL.key, 0) for whose in ("own", "other")
        )
        begun_s = time.perf_counter()
        assert await tier.store(own, 128, DIGEST, source, ""), "a store was refused"
        stored_s = time.perf_counter()
        assert await tier.store(others, 128, DIGEST, source, ""), "a store was refused"
        reload_s = await _reload_s(tier, own, target)
        assert all(np.array_equal(one, other) for one, other in zip(source, target, strict=True))
        asked_s = await _reload_s(asking, others, target)
        assert all(np.array_equal(one, other) for one, other in zip(source, target, strict=True))
        cold_s = _copy_s(pool.take(source), target_of_copies)
        cached_s = _cached_copy_s(source, target_of_copies)
        if number:
            # The first round faults pages in.
            found.store_s.append(stored_s - begun_s)
            found.reload_s.append(reload_s)
            found.asked_s.append(asked_s)
            found.cold_copy_s.append(cold_s)
            found.cached_copy_s.append(cached_s)
    return found


async def _reload_s(tier: DramTier, key: PsiKey, target: Pages) -> float:
    # What the last load has still to tell the expander is no part of this one.
    await asyncio.sleep(REST_S)
    begun_s = time.perf_counter()
    hit = await tier.lookup(key)
    assert hit is not None and await tier.load(hit, target), "what was stored was not found"
    return time.perf_counter() - begun_s


async def _control_ms(tier: DramTier) -> dict[str, float]:
    """Lookup, whose answer tells the blocks, and end of the pin: every call that a load makes, one after the other.

    Of a ranker that asks for everything; one that remembers waits for neither.
    """
    key = PsiKey(UserKey("default", "control"), MODEL.key, 0)
    page = [np.ones(CONTROL_BYTES, np.uint8)]
    assert await tier.store(key, 1, DIGEST, page, "")
    times_ms = []
    for _ in range(CONTROL_ROUNDS):
        begun_s = time.perf_counter()
        hit = await tier.lookup(key)
        assert hit is not None
        await tier.abandon(hit)
        times_ms.append(1e3 * (time.perf_counter() - begun_s))
    p50, p99 = np.quantile(times_ms, (0.5, 0.99))
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3), "count": len(times_ms)}


def _copy_s(source: Pages, target: Pages) -> float:
    begun_s = time.perf_counter()
    for one, other in zip(source, target, strict=True):
        np.copyto(other, one)
    return time.perf_counter() - begun_s


def _cached_copy_s(source: Pages, target: Pages) -> float:
    """Of a copy whose bytes were copied just before: in the caches as far as they fit."""
    _copy_s(source, target)
    return _copy_s(source, target)


def pages_of(size_bytes: int, seed: int) -> Pages:
    """Of random bytes, a MiB each or one that is smaller."""
    rng = np.random.default_rng(seed)
    count = max(1, size_bytes // PAGE_BYTES)
    return [rng.integers(0, 256, size_bytes // count, dtype=np.uint8) for _ in range(count)]


@asynccontextmanager
async def attached_tier() -> AsyncIterator[DramTier]:
    """An expander on loopback, and this process attached to it."""
    async with expander_and_tier() as (_, tier):
        yield tier


@asynccontextmanager
async def expander_and_tier() -> AsyncIterator[tuple[str, DramTier]]:
    """The address of an expander on loopback, and this process attached to it."""
    with tempfile.TemporaryDirectory(prefix="relaygr-tiers-") as folder, Supervisor(Path(folder)) as supervisor:
        (address,) = free_addresses(1)
        supervisor.start(_expander(address))
        supervisor.wait_ready("expander")
        async with tier_at(address, "tiers") as tier:
            yield address, tier


@asynccontextmanager
async def tier_at(address: str, owner: str, **settings: int) -> AsyncIterator[DramTier]:
    """This process, attached to an expander as one more ranker."""
    async with attached(
        lambda channels: DramTier(address, channels, owner, 1, MODEL, call_timeout_s=CALL_TIMEOUT_S, **settings)
    ) as tier:
        yield tier


@asynccontextmanager
async def attached(make: Callable[[ChannelPool], T]) -> AsyncIterator[T]:
    """A way to an expander, once it is attached; closed afterwards."""
    telemetry = Telemetry.setup("relaygr-tiers", "tiers", None, b"tiers")
    channels = ChannelPool(telemetry)
    tier = make(channels)
    tier.start()
    try:
        async with asyncio.timeout(ATTACH_S):
            while not tier.is_attached:  # noqa: ASYNC110 - attaching is announced to a callback of the engine's
                await asyncio.sleep(0.01)
        yield tier
    finally:
        await tier.close()
        await channels.close()
        telemetry.shutdown()


def _expander(address: str) -> ProcessSpec:
    settings = {
        "ADDRESS": address,
        "DEPLOYMENT": f"tiers.{os.getpid()}",
        "SEGMENT_BYTES": str(SEGMENT_BYTES),
    }
    return ProcessSpec(
        name="expander",
        command=(sys.executable, "-m", "services.expander"),
        environment={f"RELAYGR_EXPANDER_{name}": value for name, value in settings.items()},
        is_ready=lambda: is_serving(address),
    )


def ratio_from(sizes: dict[str, dict[str, float]], least_mib: int, name: str = "reload_per_memcpy") -> float:
    """The least share of a copy's speed, of sizes from so many MiB on."""
    return min(one[name] for size, one in sizes.items() if int(size) >= least_mib)
