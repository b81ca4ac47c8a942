"""The registry while etcd is killed, paused, emptied and compacted."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from relaygr.errors import Unreachable
from relaygr.registry import Listed, Put, Registry
from relaygr.registry.server import EmbeddedEtcd
from tests.contract.registry_world import PREFIX, Seen, etcd, put_until_done, registry, until

__all__ = ["etcd", "registry"]


async def test_a_watch_survives_a_kill_without_losing_or_repeating_an_event(registry, etcd):
    seen = Seen()
    watch = registry.watch_prefix(PREFIX, seen, check_s=0.3)
    assert await watch.listed(5)
    expected = []
    writer = Registry((etcd.endpoint,))
    try:
        for round_index in range(3):
            for index in range(3):
                key, value = f"{PREFIX}{round_index}", f"{index}"
                await put_until_done(writer, key, value)
                expected.append(Put(key, value.encode()))
            etcd.kill()
            etcd.restart()
        await put_until_done(writer, PREFIX + "last", "x")
        expected.append(Put(PREFIX + "last", b"x"))
        await seen.until(lambda changes: changes and changes[-1] == expected[-1])
    finally:
        await writer.close()
    assert seen.changes == [Listed({}), *expected]


async def test_nothing_raises_while_etcd_is_down_and_everything_comes_back(registry, etcd):
    key = PREFIX + "instance"
    seen = Seen()
    watch = registry.watch_prefix(PREFIX, seen, check_s=0.3)
    assert await watch.listed(5)
    registration = registry.keep_registered(key, lambda: "same", ttl_s=1)
    await seen.until(lambda changes: Put(key, b"same") in changes)
    etcd.kill()
    await until(lambda: not registration.is_live)
    with pytest.raises(Unreachable):
        await registry.get(key)
    await until(lambda: watch.age_ns(time.monotonic_ns()) > 1_500_000_000)
    etcd.restart()
    await until(lambda: registration.is_live)
    await until(lambda: watch.age_ns(time.monotonic_ns()) < 500_000_000)
    assert await registry.get(key) == b"same"


async def test_a_registry_made_while_etcd_is_down_begins_when_it_comes(tmp_path):
    server = EmbeddedEtcd()
    endpoint = server.start(tmp_path / "a")
    server.kill()
    client = Registry((endpoint,), timeout_s=0.5)
    seen = Seen()
    try:
        registration = client.keep_registered(PREFIX + "x", lambda: "1", ttl_s=2)
        watch = client.watch_prefix(PREFIX, seen)
        assert not await watch.listed(0.3)
        server.restart()
        await until(lambda: registration.is_live)
        await seen.until(lambda changes: bool(changes))
        assert watch.is_listed
    finally:
        await client.close()
        server.stop()


async def test_a_stopped_etcd_is_noticed_in_seconds_and_resumed(registry, etcd):
    key = PREFIX + "instance"
    seen = Seen()
    watch = registry.watch_prefix(PREFIX, seen, check_s=0.3)
    assert await watch.listed(5)
    registration = registry.keep_registered(key, lambda: "same", ttl_s=2)
    await seen.until(lambda changes: Put(key, b"same") in changes)
    await until(lambda: registration.is_live)
    etcd.pause()
    began = time.monotonic()
    await until(lambda: watch.age_ns(time.monotonic_ns()) > 2_000_000_000 and not registration.is_live)
    assert time.monotonic() - began < 5
    with pytest.raises(Unreachable):
        await registry.put(PREFIX + "b", "1")
    etcd.resume()
    await until(lambda: registration.is_live and watch.age_ns(time.monotonic_ns()) < 1_000_000_000)
    await registry.put(PREFIX + "c", "1")
    await seen.until(lambda changes: Put(PREFIX + "c", b"1") in changes)


async def test_compacted_revisions_lead_to_a_new_listing_with_the_difference(registry, etcd):
    await registry.put(PREFIX + "stays", "1")
    await registry.put(PREFIX + "goes", "1")
    seen = Seen()
    # Checks are rare here, so that only the broken stream makes the watch look.
    watch = registry.watch_prefix(PREFIX, seen, check_s=30.0)
    assert await watch.listed(5)
    writer = Registry((etcd.endpoint,))
    try:
        watch_stream_gone = _cut_stream(watch)
        await writer.delete(PREFIX + "goes")
        await writer.put(PREFIX + "comes", "1")
        await writer.put("/relaygr/v1/elsewhere", "1")
        await writer.compact((await writer.get_prefix(PREFIX)).revision)
        watch_stream_gone()
        await seen.until(lambda changes: len(changes) > 1)
    finally:
        await writer.close()
    assert seen.changes[1:] == [Listed({PREFIX + "comes": b"1", PREFIX + "stays": b"1"})]


def _cut_stream(watch):
    """Hold the watch off while history is made; the returned function lets it go on."""
    loop = asyncio.get_running_loop()
    gate = loop.create_future()
    transport = watch._transport
    real = transport.stream

    async def gated(*args, **kwargs):
        await gate
        return await real(*args, **kwargs)

    transport.stream = gated
    # A broken stream, as the transport would report it.
    watch._take = lambda _answer: (_ for _ in ()).throw(Unreachable("etcd", "cut by the test"))

    def release():
        del watch._take
        gate.set_result(None)

    task = watch._task
    task.cancel()
    watch._task = asyncio.create_task(watch._run())
    return release


async def test_an_etcd_that_lost_its_data_is_listed_again(registry, etcd, tmp_path):
    for index in range(20):
        await registry.put(f"{PREFIX}{index}", "old")
    seen = Seen()
    registry.watch_prefix(PREFIX, seen, check_s=0.3)
    await seen.until(lambda changes: len(changes) == 1)
    registration = registry.keep_registered(PREFIX + "me", lambda: "here", ttl_s=2)
    await until(lambda: registration.is_live)
    etcd.kill()
    etcd.restart(tmp_path / "empty")
    await seen.until(lambda changes: any(isinstance(c, Listed) and len(c.values) < 20 for c in changes))
    await until(lambda: registration.leases_granted == 2 and registration.is_live)
    assert await registry.get(PREFIX + "me") == b"here"


async def test_an_etcd_that_lost_its_data_is_noticed_when_it_shows_as_many_keys(registry, etcd, tmp_path):
    await registry.put(PREFIX + "only", "old")
    for index in range(20):
        await registry.put("/relaygr/v1/elsewhere", str(index))
    seen = Seen()
    registry.watch_prefix(PREFIX, seen, check_s=0.3)
    await seen.until(lambda changes: changes == [Listed({PREFIX + "only": b"old"})])
    etcd.kill()
    etcd.restart(tmp_path / "empty")
    await put_until_done(registry, PREFIX + "only", "new")
    await seen.until(lambda changes: changes[-1] == Listed({PREFIX + "only": b"new"}))


async def test_the_next_endpoint_is_used_when_one_is_silent(etcd):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # Accepts connections and never says a word.
        client = Registry((f"127.0.0.1:{silent.getsockname()[1]}", f"http://{etcd.endpoint}"), timeout_s=0.5)
        try:
            with pytest.raises(Unreachable):
                await client.put(PREFIX + "a", "1")
            await client.put(PREFIX + "a", "2")
            assert await client.get(PREFIX + "a") == b"2"
        finally:
            await client.close()
