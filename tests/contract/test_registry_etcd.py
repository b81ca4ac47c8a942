"""The registry against a real etcd: values, leases, registrations, watches, credentials."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time

import pytest

from relaygr.errors import NotHere, Unreachable
from relaygr.registry import Deleted, Listed, Put, Registry
from relaygr.registry.transport import etcdrpc
from tests.contract.registry_world import PREFIX, Seen, etcd, registry, until

__all__ = ["etcd", "registry"]


async def test_a_value_put_is_the_value_got(registry):
    assert await registry.get(PREFIX + "a") is None
    await registry.put(PREFIX + "a", "1")
    await registry.put(PREFIX + "b", b"\xff\x00")
    assert await registry.get(PREFIX + "a") == b"1"
    listing = await registry.get_prefix(PREFIX)
    assert listing.items == ((PREFIX + "a", b"1"), (PREFIX + "b", b"\xff\x00"))
    await registry.put("/relaygr/v1/tesu", "outside the prefix")
    assert len((await registry.get_prefix(PREFIX)).items) == 2
    assert (await registry.get_prefix(PREFIX)).revision == listing.revision + 1
    assert await registry.delete(PREFIX + "a")
    assert not await registry.delete(PREFIX + "a")


async def test_compare_and_swap_writes_only_over_what_was_expected(registry):
    key = PREFIX + "slots"
    assert await registry.compare_and_swap(key, None, "one")
    assert not await registry.compare_and_swap(key, None, "another")
    assert not await registry.compare_and_swap(key, b"other", "two")
    assert await registry.compare_and_swap(key, b"one", "two")
    assert await registry.get(key) == b"two"


async def test_a_key_ends_with_its_lease(registry):
    seen = Seen()
    watch = registry.watch_prefix(PREFIX, seen)
    assert await watch.listed(5)
    lease, ttl_s = await registry.grant(1)
    assert ttl_s >= 1
    await registry.put(PREFIX + "short", "x", lease)
    await seen.until(lambda changes: Deleted(PREFIX + "short") in changes)
    with pytest.raises(NotHere):
        await registry.keep_alive(lease)
    with pytest.raises(NotHere):
        await registry.put(PREFIX + "short", "x", lease)


async def test_a_registered_key_outlives_its_lease_and_ends_when_withdrawn(registry):
    key = PREFIX + "instance"
    value = "one"
    seen = Seen()
    watch = registry.watch_prefix(PREFIX, seen)
    assert await watch.listed(5)
    registration = registry.keep_registered(key, lambda: value, ttl_s=1)
    await seen.until(lambda changes: Put(key, b"one") in changes)
    await until(lambda: registration.is_live)
    began = time.monotonic()
    await until(lambda: time.monotonic() - began > 3)  # Several lives of the lease.
    assert registration.is_live
    assert Deleted(key) not in seen.changes
    value = "two"
    registration.update()
    await seen.until(lambda changes: Put(key, b"two") in changes)
    await registration.withdraw()
    await seen.until(lambda changes: changes[-1] == Deleted(key))
    assert not registration.is_live
    assert registration.leases_granted == 1


async def test_a_lost_lease_is_replaced_and_the_key_written_again(registry):
    key = PREFIX + "instance"
    seen = Seen()
    watch = registry.watch_prefix(PREFIX, seen)
    assert await watch.listed(5)
    registration = registry.keep_registered(key, lambda: "same", ttl_s=2)
    await seen.until(lambda changes: Put(key, b"same") in changes)
    await registry.revoke(await registry.lease_of(key))
    await seen.until(lambda changes: changes[-2:] == [Deleted(key), Put(key, b"same")])
    await until(lambda: registration.is_live)
    assert registration.leases_granted == 2


async def test_a_key_that_somebody_deleted_is_restored(registry):
    key = PREFIX + "instance"
    seen = Seen()
    watch = registry.watch_prefix(PREFIX, seen)
    assert await watch.listed(5)
    registry.keep_registered(key, lambda: "same", ttl_s=1)
    await seen.until(lambda changes: Put(key, b"same") in changes)
    await registry.delete(key)
    await seen.until(lambda changes: changes[-2:] == [Deleted(key), Put(key, b"same")])


async def test_an_exclusive_key_has_one_holder_and_passes_on(registry, etcd):
    other = Registry((etcd.endpoint,))
    try:
        first = registry.keep_registered(PREFIX + "leader", lambda: "a", ttl_s=1, exclusive=True)
        await until(lambda: first.is_live)
        second = other.keep_registered(PREFIX + "leader", lambda: "b", ttl_s=1, exclusive=True)
        held_together = []
        watch = asyncio.create_task(_sample(lambda: first.is_live and second.is_live, held_together))
        await until(lambda: watch.done() or len(held_together) > 20)
        assert not any(held_together)
        assert await registry.get(PREFIX + "leader") == b"a"
        await first.withdraw()
        await until(lambda: second.is_live)
        assert await registry.get(PREFIX + "leader") == b"b"
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch
    finally:
        await other.close()


async def _sample(value, into):
    while True:
        into.append(value())
        await asyncio.sleep(0.05)


async def test_listing_again_beside_the_stream_neither_repeats_nor_loses(registry):
    seen = Seen()
    watch = registry.watch_prefix(PREFIX, seen, check_s=0.001, reconcile_s=0.0)
    assert await watch.listed(5)
    key = PREFIX + "counter"
    for index in range(200):
        await registry.put(key, str(index))
    last = b"199"
    await seen.until(lambda changes: _value_told(changes[-1], key) == last)
    told = [_value_told(change, key) for change in seen.changes]
    told = [value for value in told if value is not None]
    # Each value was written once: one that comes again after another is an old event.
    assert len(told) == len(set(told))


def _value_told(change, key):
    return change.values.get(key) if isinstance(change, Listed) else getattr(change, "value", None)


async def test_a_change_the_watch_was_never_told_is_found_by_the_check(registry):
    seen = Seen()
    watch = registry.watch_prefix(PREFIX, seen, check_s=0.1)
    assert await watch.listed(5)
    watch._known[PREFIX + "ghost"] = b"x"
    await seen.until(lambda changes: len(changes) > 1)
    assert seen.changes[-1] == Listed({})


async def test_an_owner_that_fails_does_not_end_its_watch(registry, caplog):
    changes = []

    def handle(change):
        changes.append(change)
        if isinstance(change, Listed):
            raise ValueError("the owner's mistake")

    registry.watch_prefix(PREFIX, handle)
    await until(lambda: bool(changes))
    await registry.put(PREFIX + "a", "1")
    await until(lambda: Put(PREFIX + "a", b"1") in changes)
    assert "could not be handled" in caplog.text


async def test_a_key_that_is_no_text_hides_none_of_the_others(registry):
    request = etcdrpc.PutRequest(key=b"/p/\xff\xfe", value=b"foreign")
    await registry._transport.call("KV", "Put", request)
    await registry.put("/p/a", "1")
    seen = Seen()
    watch = registry.watch_prefix("/p/", seen, check_s=0.05)
    assert await watch.listed(10)
    await registry.put("/p/b", "2")
    await registry._transport.call("KV", "Put", request)
    await seen.until(lambda _: {"/p/a", "/p/b"} < set(watch._known))
    assert len(watch._known) == 3
    assert [key for key, _ in (await registry.get_prefix("/p/")).items][:2] == ["/p/\\xff\\xfe", "/p/a"]


async def test_user_and_password_reach_etcd_and_a_dead_token_is_renewed(etcd):
    admin = Registry((etcd.endpoint,))
    transport = admin._transport
    await transport.call("Auth", "UserAdd", etcdrpc.AuthUserAddRequest(name="root", password="secret"))
    await transport.call("Auth", "RoleAdd", etcdrpc.AuthRoleAddRequest(name="root"))
    await transport.call("Auth", "UserGrantRole", etcdrpc.AuthUserGrantRoleRequest(user="root", role="root"))
    await transport.call("Auth", "AuthEnable", etcdrpc.AuthEnableRequest())
    known = Registry((etcd.endpoint,), user="root", password="secret")
    try:
        with pytest.raises(Exception, match="user name is empty"):
            await admin.put(PREFIX + "a", "1")
        await known.put(PREFIX + "a", "1")
        known._transport._token = "stale.1"
        assert await known.get(PREFIX + "a") == b"1"
        seen = Seen()
        watch = known.watch_prefix(PREFIX, seen)
        assert await watch.listed(5)
        registration = known.keep_registered(PREFIX + "b", lambda: "1", ttl_s=1)
        await seen.until(lambda changes: Put(PREFIX + "b", b"1") in changes)
        await until(lambda: registration.is_live)
    finally:
        await known.close()
        await admin.close()


async def test_nothing_is_left_running_after_close(etcd):
    threads_before = set(threading.enumerate())
    tasks_before = asyncio.all_tasks()
    client = Registry((etcd.endpoint,))
    client.watch_prefix(PREFIX, Seen())
    registration = client.keep_registered(PREFIX + "a", lambda: "1", ttl_s=2)
    await until(lambda: registration.is_live)
    await client.close()
    # Ours have ended by now; gRPC's own, of calls that were cancelled, end within a turn or two.
    assert not [
        task for task in asyncio.all_tasks() - tasks_before if task.get_name().startswith(("watch", "register"))
    ]
    await until(lambda: asyncio.all_tasks() == tasks_before, 5)
    left = [thread for thread in threading.enumerate() if thread not in threads_before and not thread.daemon]
    assert left == []
    with pytest.raises(Unreachable):
        await client.get(PREFIX + "a")
