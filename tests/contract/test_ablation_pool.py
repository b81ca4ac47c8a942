"""The way to a pool of psi, against a real pool: whole and right bytes, or nothing."""

from contextlib import asynccontextmanager

import numpy as np
import pytest

from bench.load.ablations import pool_wire as wire
from bench.load.ablations.pool import Pool, PoolService, add_to_server
from bench.load.ablations.pool_tier import PoolTier
from relaygr.domain.identity import PsiKey, UserKey
from relaygr.rpc.server import RpcServer
from relaygr.telemetry import Telemetry

KEY = PsiKey(UserKey("default", "u"), "model", 0)
DIGEST = b"d" * 16


@asynccontextmanager
async def pool_and_tier():
    telemetry, _ = Telemetry.for_tests()
    server = RpcServer(service_name="pool", address="127.0.0.1:0", telemetry=telemetry)
    server.add(add_to_server, PoolService(Pool(64 << 20)), wire.SERVICE)
    tier = PoolTier(f"127.0.0.1:{await server.start()}")
    try:
        yield server, tier
    finally:
        await tier.close()
        await server.stop(0)
        telemetry.shutdown()


def pages(count, page_bytes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, page_bytes, np.uint8) for _ in range(count)]


@pytest.mark.parametrize(
    ("count", "page_bytes"), [(1, 10), (3, 65_536), (40, 65_537), (2, 3 * wire.CHUNK_BYTES), (5, wire.CHUNK_BYTES)]
)
async def test_what_was_stored_comes_back_page_for_page(count, page_bytes):
    stored = pages(count, page_bytes)
    loaded = [np.zeros(page_bytes, np.uint8) for _ in range(count)]
    async with pool_and_tier() as (_, tier):
        assert await tier.store(KEY, 7, DIGEST, stored, "trace")
        found = await tier.find(KEY)
        assert (found.token_count, found.chain_digest, found.producer_traceparent) == (7, DIGEST, "trace")
        assert await tier.lookup(KEY) is found, "asked twice"
        assert await tier.load(found, loaded)
        counters = await tier.counters()
    assert all(np.array_equal(one, other) for one, other in zip(stored, loaded, strict=True))
    assert counters["fetches_bytes"] == counters["stores_bytes"] == count * page_bytes
    assert counters["lookups"] == 1


async def test_an_entry_replaced_since_it_was_found_is_not_taken_for_it():
    async with pool_and_tier() as (_, tier):
        assert await tier.store(KEY, 7, DIGEST, pages(2, 1000, seed=1))
        found = await tier.lookup(KEY)
        assert await tier.store(KEY, 7, b"e" * 16, pages(2, 1000, seed=2))
        assert not await tier.load(found, [np.zeros(1000, np.uint8) for _ in range(2)])
        assert await tier.store(KEY, 9, DIGEST, pages(3, 1000))
        assert not await tier.load(found, [np.zeros(1000, np.uint8) for _ in range(2)])


async def test_an_entry_gone_since_it_was_found_is_a_miss():
    async with pool_and_tier() as (_, tier):
        assert await tier.store(KEY, 7, DIGEST, pages(2, 1000))
        found = await tier.lookup(KEY)
        assert await tier.forget(KEY.owner) == (1, True)
        assert not await tier.load(found, [np.zeros(1000, np.uint8) for _ in range(2)])
        assert await tier.lookup(KEY) is None


async def test_a_pool_that_is_away_is_a_miss_and_no_error():
    async with pool_and_tier() as (server, tier):
        assert await tier.store(KEY, 7, DIGEST, pages(1, 1000))
        found = await tier.lookup(KEY)
        await server.stop(0)
        assert await tier.lookup(KEY) is None
        assert not await tier.load(found, [np.zeros(1000, np.uint8)])
        assert not await tier.store(KEY, 7, DIGEST, pages(1, 1000))
        assert await tier.forget(KEY.owner) == (0, False)
