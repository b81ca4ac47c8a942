"""What the streams refuse, each with its status and field, and what they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from relaygr.rpc.status import ERROR_METADATA_KEY
from relaygr.v1 import expander_pb2, transfer_pb2
from tests.contract.expander_world import key_of, pages_of, stored, until
from tests.contract.remote_world import (
    FIND,
    FINISH,
    LONG,
    TAKE,
    RemoteWorld,
    begin_of,
    chunk_of,
    key_pb,
    long_pages,
    remote_world,
)

DATA = bytes(range(250)) * 120
INVALID, EXHAUSTED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[RemoteWorld]:
    async with remote_world(tmp_path) as made:
        yield made


async def said(call: Any) -> tuple[grpc.StatusCode, str]:
    """How a stream ended."""
    return await asyncio.wait_for(call.code(), 10), await call.details()


async def said_after_all(call: Any) -> tuple[grpc.StatusCode, str]:
    """How a stream ended whose messages are of no interest."""
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError:
        pass
    return await said(call)


async def store_of(world: RemoteWorld, *messages: transfer_pb2.StoreRequest) -> Any:
    """A store of these messages, of which no more than the last is refused."""
    call = world.streams.Store(timeout=10)
    for message in messages:
        await call.write(message)
    await call.done_writing()
    return call


@pytest.mark.parametrize(
    ("field", "messages"),
    [
        ("begin", [chunk_of(DATA)]),
        ("begin", []),
        ("chunk", [begin_of(DATA), begin_of(DATA)]),
        ("begin.key.user", [transfer_pb2.StoreRequest(begin=transfer_pb2.StoreBegin(key=key_pb("")))]),
        ("begin.content.content_digest", [begin_of(DATA, content_digest=b"x")]),
        ("begin.content.length_bytes", [begin_of(DATA, length_bytes=2**40)]),
        ("begin.content.length_bytes", [begin_of(DATA), chunk_of(DATA[:-1])]),
        ("chunk.offset_bytes", [begin_of(DATA), chunk_of(DATA[10_000:], 10_000)]),
        ("chunk.offset_bytes", [begin_of(DATA), chunk_of(DATA[:9]), chunk_of(DATA[:9])]),
        ("chunk.data", [begin_of(DATA), chunk_of(b"")]),
        ("chunk.data", [begin_of(DATA), chunk_of(DATA), chunk_of(b"x", len(DATA))]),
        ("chunk.data", [begin_of(DATA), chunk_of(bytes(256 * 1024 + 1))]),
    ],
)
async def test_a_bad_store_is_refused_by_its_fields_name(
    world: RemoteWorld, field: str, messages: list[transfer_pb2.StoreRequest]
) -> None:
    code, details = await said_after_all(await store_of(world, *messages))
    assert code is INVALID and details.startswith(f"{field}: ")
    await until(lambda: world.is_at_rest)
    assert world.tiering.occupancy().entries == 0


async def test_bytes_that_are_not_those_of_the_digest_are_not_stored(world: RemoteWorld) -> None:
    call = await store_of(world, begin_of(DATA), chunk_of(bytes(len(DATA))))
    code, details = await said_after_all(call)
    assert code is grpc.StatusCode.DATA_LOSS and details.startswith("begin.content.content_digest: ")
    assert (ERROR_METADATA_KEY, "CorruptData") in list(await call.trailing_metadata())
    await until(lambda: world.is_at_rest)
    assert world.tiering.occupancy().entries == 0


@pytest.mark.parametrize(
    ("field", "messages"),
    [
        ("find", [TAKE]),
        ("find", []),
        ("find.user", [transfer_pb2.FetchRequest(find=key_pb(""))]),
        ("find.model.name", [transfer_pb2.FetchRequest(find=expander_pb2.EntryKey(user="u"))]),
        ("take", [FIND, FINISH]),
        ("finish", [FIND, TAKE, TAKE]),
    ],
)
async def test_a_bad_fetch_is_refused_by_its_fields_name(
    world: RemoteWorld, field: str, messages: list[transfer_pb2.FetchRequest]
) -> None:
    assert await stored(await world.remote(), key_of("u"), pages_of(1))
    call = world.streams.Fetch(timeout=10)
    for message in messages:
        await call.write(message)
    await call.done_writing()
    code, details = await said_after_all(call)
    assert code is INVALID and details.startswith(f"{field}: ")
    await until(lambda: world.is_at_rest)


@pytest.mark.parametrize("messages", [[FIND], [FIND, TAKE]])
async def test_a_caller_that_wants_no_more_ends_its_pin(
    world: RemoteWorld, messages: list[transfer_pb2.FetchRequest]
) -> None:
    assert await stored(await world.remote(), key_of("u"), pages_of(1))
    call = world.streams.Fetch(timeout=10)
    for message in messages:
        await call.write(message)
    await call.done_writing()
    assert (await said_after_all(call))[0] is grpc.StatusCode.OK
    await until(lambda: world.is_at_rest)


@pytest.mark.parametrize("length_bytes", [0, 4 * 1024 * 1024 + 1])
async def test_a_probe_beyond_its_bounds_is_refused(world: RemoteWorld, length_bytes: int) -> None:
    code, details = await said(world.streams.Probe(transfer_pb2.ProbeRequest(length_bytes=length_bytes), timeout=10))
    assert code is INVALID and details.startswith("length_bytes: ")


async def test_more_streams_than_the_bound_are_refused_and_a_lookup_is_a_miss(tmp_path: Path) -> None:
    async with remote_world(tmp_path, transfer_streams_max=2) as world:
        tier = await world.remote()
        assert await stored(tier, key_of("u"), pages_of(1))
        first, second = [await tier.lookup(key_of("u")) for _ in range(2)]
        assert first is not None and second is not None
        code, details = await said(await store_of(world, begin_of(DATA)))
        assert code is EXHAUSTED and "2 streams" in details
        assert await tier.lookup(key_of("u")) is None and tier.is_attached, "full is not away"
        await tier.abandon(first)
        await until(lambda: world.transfer._open.total() == 1)
        assert await tier.load(second, [page * 0 for page in pages_of(1)])


async def test_a_reader_that_does_not_read_is_ended(tmp_path: Path) -> None:
    async with remote_world(tmp_path, pin_ms=1_000.0, **LONG) as world:
        assert await stored(await world.remote(), key_of("u"), long_pages())
        call = world.streams.Fetch(timeout=60)
        await call.write(FIND)
        await call.read()
        await call.write(TAKE)
        await until(lambda: world.is_at_rest)
        assert world.tiering.counters["pin_expired"] == 0, "the stream ended before its pin"
        assert (await said_after_all(call))[0] is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_writer_that_does_not_write_is_ended(tmp_path: Path) -> None:
    async with remote_world(tmp_path, store_ms=500.0) as world:
        call = world.streams.Store(timeout=60)
        await call.write(begin_of(DATA))
        assert (await said_after_all(call))[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: world.is_at_rest)
        assert world.tiering.counters["store_overdue"] == 0, "the stream ended before its grant"


async def test_streams_of_an_index_that_lapsed_touch_nothing_more(tmp_path: Path) -> None:
    """As after an event loop that stood still: what was granted is void, and the next stream gets a new index."""
    async with remote_world(tmp_path) as world:
        tier = await world.remote()
        assert await stored(tier, key_of("v"), pages_of(2))
        hit = await tier.lookup(key_of("v"))
        call = world.streams.Store(timeout=10)
        await call.write(begin_of(DATA))
        await call.write(chunk_of(DATA[:100]))
        await until(lambda: world.transfer._metrics.moved_bytes["STORE"] > 30_000)
        before = world.owner._index
        # Another epoch under the same name is what a restart of this owner would be to the core.
        world.tiering.attach(world.owner._name, 2, world.owner._clock())
        await call.write(chunk_of(DATA[100:], 100))
        code, _ = await said_after_all(call)
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert hit is not None and not await tier.load(hit, [page * 0 for page in pages_of(2)])
        await until(lambda: world.owner._index not in (None, before))
        await until(lambda: world.is_at_rest)
        assert await stored(tier, key_of("w"), pages_of(3))


async def test_an_expander_without_remote_rankers_has_no_owner_of_its_own(world: RemoteWorld) -> None:
    await world.ranker()
    assert world.tiering.occupancy().owners == 1
    tier = await world.remote()
    assert world.tiering.occupancy().owners == 1, "a probe copies nothing"
    await tier.lookup(key_of("u"))
    assert world.tiering.occupancy().owners == 2


async def test_a_probe_that_cannot_be_parsed_is_the_callers_mistake(world: RemoteWorld) -> None:
    probe = world.channels.get(world.address).unary_stream("/relaygr.v1.TransferService/Probe", _as_it_is)
    assert await said_after_all(probe(b"\xff\xff\xff", timeout=10)) == (INVALID, "request: cannot be parsed")


def _as_it_is(raw: bytes) -> bytes:
    return raw
