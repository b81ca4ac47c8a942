"""A real etcd, a registry on it, and ways to wait."""

from __future__ import annotations

import asyncio

import pytest

from relaygr.errors import Unreachable
from relaygr.registry import Registry
from relaygr.registry.server import EmbeddedEtcd

PREFIX = "/relaygr/v1/test/"


@pytest.fixture
def etcd(tmp_path):
    with EmbeddedEtcd() as server:
        server.start(tmp_path / "etcd")
        yield server


@pytest.fixture
async def registry(etcd):
    client = Registry((etcd.endpoint,), timeout_s=1.0)
    yield client
    await client.close()


class Seen:
    """Collects changes and wakes whoever waits for one."""

    def __init__(self):
        self.changes = []
        self._waiters = []

    def __call__(self, change):
        self.changes.append(change)
        for waiter in self._waiters:
            waiter.set()

    async def until(self, condition, timeout_s=15.0):
        event = asyncio.Event()
        self._waiters.append(event)
        async with asyncio.timeout(timeout_s):
            while not condition(self.changes):
                event.clear()
                await event.wait()


async def until(condition, timeout_s=15.0):
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - the condition belongs to the code under test
            await asyncio.sleep(0.02)


async def put_until_done(registry, key, value):
    async with asyncio.timeout(10):
        while True:
            try:
                return await registry.put(key, value)
            except Unreachable:
                await asyncio.sleep(0.02)
